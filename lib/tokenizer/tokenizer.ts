import { setImmediate } from 'node:timers/promises';
import { Qwen2Error, throwIfAborted } from '../native/errors.js';
import { type ChatMessage, type ChatOptions, checkMessages } from './chatTemplate.js';
import { decodeTokens, TokenStream } from './detokenizer.js';
import { hasTokenizer } from './files.js';
import { TokenizerThread } from './thread.js';
import { Vocabulary } from './vocabulary.js';

export { hasTokenizer };

export interface EncodeOptions {
  /** Whether control tokens in the text, such as `<|im_end|>`, become their ids. Default false: they are text. */
  parseSpecial?: boolean | undefined;
  signal?: AbortSignal | undefined;
}

export interface DecodeOptions {
  /** Whether special tokens are left out. Default true. */
  skipSpecial?: boolean | undefined;
}

/** Characters that are handed to the thread at once: copying so many takes half a millisecond. */
const partLength = 1 << 20;
/** Ids that are copied out of an answer at once. */
const idsAtOnce = 1 << 16;

/**
 * Reads a folder's tokenizer.json and tokenizer_config.json, on a thread of its own.
 *
 * @throws not_found, invalid_checkpoint, unsupported, io_error, aborted
 */
export async function loadTokenizer(
  folder: string,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Tokenizer> {
  throwIfAborted(signal, 'Loading');
  const { thread, vocabulary, hasChatTemplate } = await TokenizerThread.start(folder, signal);
  return new Tokenizer(thread, new Vocabulary(vocabulary), hasChatTemplate);
}

/** Text to token ids and back, as the checkpoint's files define it. Made by `loadTokenizer`. */
export class Tokenizer {
  /** Whether the checkpoint has a chat template. */
  readonly hasChatTemplate: boolean;
  readonly #thread: TokenizerThread;
  readonly #vocabulary: Vocabulary;

  constructor(thread: TokenizerThread, vocabulary: Vocabulary, hasChatTemplate: boolean) {
    this.#thread = thread;
    this.#vocabulary = vocabulary;
    this.hasChatTemplate = hasChatTemplate;
  }

  /** One more than the highest id that has a token. The model's logits may be wider. */
  get vocabularySize(): number {
    return this.#vocabulary.size;
  }

  /** Ids of the tokens that structure the input and are not text. */
  get specialIds(): ReadonlySet<number> {
    return this.#vocabulary.specialIds;
  }

  /** The id of an added token, such as `<|im_end|>`. */
  tokenId(content: string): number | undefined {
    return this.#vocabulary.addedId(content);
  }

  /** The bytes that a token stands for; none for an id without a token. A view, not to be written to. */
  tokenBytes(id: number): Uint8Array {
    return this.#vocabulary.bytesOf(id);
  }

  /** The text's token ids; time grows with its length. A lone surrogate counts as U+FFFD. @throws aborted, disposed */
  async encode(text: string, { parseSpecial = false, signal }: EncodeOptions = {}): Promise<number[]> {
    if (typeof text !== 'string')
      throw new Qwen2Error(
        'invalid_argument',
        `The text to encode must be a string; got ${text === null ? 'null' : typeof text}`,
      );
    throwIfAborted(signal, 'The encoding');
    const id = this.#thread.nextId();
    for (let at = 0; at < text.length; at += partLength) {
      if (at > 0) await setImmediate();
      this.#thread.post({ kind: 'part', id, text: text.slice(at, at + partLength) });
    }
    const cancelled = new Int32Array(new SharedArrayBuffer(4));
    const ids = await this.#thread.ask({ kind: 'encode', id, parseSpecial, cancelled }, { signal, cancelled });
    return toArray(ids as Int32Array);
  }

  /** The text of token ids. Ids without a token, in or beyond the vocabulary, give nothing; damaged UTF-8 gives U+FFFD. */
  decode(ids: Iterable<number>, { skipSpecial = true }: DecodeOptions = {}): string {
    return decodeTokens(this.#vocabulary, ids, skipSpecial);
  }

  /** Decodes tokens as they come, in complete characters. */
  stream({ skipSpecial = true }: DecodeOptions = {}): TokenStream {
    return new TokenStream(this.#vocabulary, skipSpecial);
  }

  /**
   * The ids of a conversation in the checkpoint's chat template. Control tokens are the template's own: what a message
   * spells is text.
   *
   * @throws invalid_argument naming the message that is wrong; unsupported without a chat template; aborted, disposed
   */
  async encodeChat(
    messages: readonly ChatMessage[],
    { signal, ...options }: ChatOptions & { signal?: AbortSignal | undefined } = {},
  ): Promise<number[]> {
    this.#checkChat(messages);
    throwIfAborted(signal, 'The encoding');
    const cancelled = new Int32Array(new SharedArrayBuffer(4));
    const request = { kind: 'encodeChat', id: this.#thread.nextId(), messages, options, cancelled } as const;
    return toArray((await this.#thread.ask(request, { signal, cancelled })) as Int32Array);
  }

  /** The same conversation as text, to look at: in it, a control token that a user typed looks like a real one. */
  async applyChatTemplate(messages: readonly ChatMessage[], options: ChatOptions = {}): Promise<string> {
    this.#checkChat(messages);
    return (await this.#thread.ask({ kind: 'render', id: this.#thread.nextId(), messages, options })) as string;
  }

  /** Ends the thread. What it has not answered is rejected with code `disposed`. */
  dispose(): Promise<void> {
    return this.#thread.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #checkChat(messages: readonly ChatMessage[]): void {
    checkMessages(messages);
    if (!this.hasChatTemplate)
      throw new Qwen2Error(
        'unsupported',
        "This checkpoint has no chat template: it is a base model, or its tokenizer_config.json is not the one that came with it. Use 'generate'",
      );
  }
}

async function toArray(ids: Int32Array): Promise<number[]> {
  // An array that grows as it is filled would be copied again and again, at last for many milliseconds.
  const array = new Array<number>(ids.length);
  for (let i = 0; i < ids.length; i++) {
    if (i > 0 && i % idsAtOnce === 0) await setImmediate();
    array[i] = ids[i]!;
  }
  return array;
}
