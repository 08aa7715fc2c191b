/** Proxmox's archives, read and written: `quiesce/vma`. */
export {VmaDamagedError, VmaIndexError} from './errors.ts';
export type {VmaConfig, VmaDevice, VmaHeader} from './header.ts';
export {type OpenVma, openVma} from './open-vma.ts';
export {toFile, toStream, type VmaOutput} from './output.ts';
export {readVma} from './reader.ts';
export {VmaWriter, type VmaWriterOptions, type WrittenVma} from './writer.ts';
export {type Compressor, compressTo, uncompressed} from './zstd.ts';
