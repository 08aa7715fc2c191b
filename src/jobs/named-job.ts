/** A job and what it is called in messages. */
export interface NamedJob {
	readonly id: string;
	readonly label: string;
}
