/**
 * What went wrong, as a stable word that programs may branch on. The message says what was asked, what was found and
 * what to do about it.
 */
export type Qwen2ErrorCode =
  /** An argument or a parameter is out of range, of the wrong type, or unknown. */
  | 'invalid_argument'
  /** A checkpoint, config or tokenizer file is damaged, incomplete or inconsistent. */
  | 'invalid_checkpoint'
  /** A well-formed request for something that this version does not implement. */
  | 'unsupported'
  /** A file or folder that was asked for does not exist. */
  | 'not_found'
  /** The file system refused: permission, a file that shrank while it was read, a full disk. */
  | 'io_error'
  /** The device that was asked for can't be used on this machine. */
  | 'device_unavailable'
  /** The memory that was asked for does not fit. */
  | 'out_of_memory'
  /** The prompt does not fit into the context. */
  | 'context_overflow'
  /** An AbortSignal ended the work. */
  | 'aborted'
  /** The object was disposed before the call. */
  | 'disposed'
  /** A fault of qwen2-node itself. */
  | 'internal';

/** The one error type of this package. */
export class Qwen2Error extends Error {
  override readonly name = 'Qwen2Error';
  readonly code: Qwen2ErrorCode;

  constructor(code: Qwen2ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Rejects with code `aborted` if the signal has fired; the signal's own reason becomes the cause. */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted)
    throw new Qwen2Error('aborted', `${what} was aborted by its AbortSignal`, { cause: signal.reason });
}
