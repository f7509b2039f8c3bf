import type { ResolvedSamplingParameters } from '../sampler/parameters.js';
import { noPrefix } from './blockAllocator.js';

/** Why a sequence ended. */
export type FinishReason = 'stop' | 'length' | 'abort';

/** A token with its log-probability. */
export interface TokenLogprob {
  token: number;
  /** Natural logarithm of the probability that the model gave it, before sampling parameters. */
  logprob: number;
  /** 1: the most probable token. */
  rank: number;
}

/** A chosen token, or one of the prompt, with as many of the most probable alternatives as were asked for. */
export interface Logprobs extends TokenLogprob {
  top: TokenLogprob[];
}

/** What is asked of the engine: token ids only. */
export interface SequenceRequest {
  prompt: readonly number[];
  parameters: ResolvedSamplingParameters;
  /** Tokens after which the sequence ends with reason 'stop'. */
  stopTokens: ReadonlySet<number>;
  /** Tokens to generate at most; 0: only the prompt is computed. */
  maxTokens: number;
  /** Lower ones are served first; those of equal priority in the order in which they came. */
  priority: number;
  /** Which of the n continuations of a prompt this is; part of the key of its random numbers. */
  choice: number;
}

/** What a step found out about the prompt's tokens from `first` to before `end`, as far as it was asked for. */
export interface PromptPart {
  first: number;
  end: number;
  /** f32[end − first, V] */
  logits?: Float32Array | undefined;
  /** Of the tokens behind them. */
  logprobs?: Logprobs[] | undefined;
}

/** Called on the JavaScript thread, as steps finish. One that throws fails its sequence. */
export interface SequenceListener {
  /** The logits of the prompt's tokens: `rows` f32[R, V] for the positions from `first` on. Computed only if present. */
  onPromptLogits?(first: number, rows: Float32Array): void;
  /** The log-probabilities of the prompt's tokens from position `first` ≥ 1 on, if `promptLogprobs` is set. */
  onPromptLogprobs?(first: number, logprobs: Logprobs[]): void;
  /** A token was chosen. Returning true ends the sequence with reason 'stop'. */
  onToken(token: number, logprobs: Logprobs | undefined): boolean;
  onEnd(reason: FinishReason): void;
  onError(error: unknown): void;
}

/** One continuation of one prompt, while the engine has it. */
export class Sequence {
  readonly request: SequenceRequest;
  readonly listener: SequenceListener;
  /** The prompt, then what was generated, as far as it was heard. */
  readonly tokens: number[];
  readonly promptLength: number;
  /** How many tokens' keys and values are in the cache, or will be when the steps under way are through. */
  computed = 0;
  /** Tokens that steps under way choose: on the device by and by, but not heard of. */
  unheard = 0;
  /** Where its token is among those that the last step chose. */
  row = 0;
  /** The cache blocks of the tokens, in order. */
  blocks: number[] = [];
  /** Its place in the order of service. */
  turn = 0;
  /** How many of its blocks are known by their content, and what stands for all of that (blockAllocator.ts). */
  remembered = 0;
  prefix = noPrefix;
  /** The key of the block that its prompt's next tokens fill, while others may wait for it. */
  announced: string | undefined;
  /** Prompt positions whose logits or log-probabilities are delivered, or will be when the steps under way are through:
   * not again when the sequence is recomputed. */
  delivered = 0;
  /** Those of them that its listener has heard of. */
  heard = 0;
  ended = false;

  constructor(request: SequenceRequest, listener: SequenceListener) {
    this.request = request;
    this.listener = listener;
    this.tokens = [...request.prompt];
    this.promptLength = request.prompt.length;
  }

  /** Tokens that are still to be computed before the next one can be chosen. */
  get pending(): number {
    return this.length - this.computed;
  }

  /** Tokens, those that are not heard of with them. */
  get length(): number {
    return this.tokens.length + this.unheard;
  }

  /** Tokens that were chosen, those that are not heard of with them. */
  get chosen(): number {
    return this.length - this.promptLength;
  }

  /** Whether nothing is left to choose. What was chosen last is never computed. */
  get isComplete(): boolean {
    return this.chosen >= this.request.maxTokens && this.pending <= (this.request.maxTokens === 0 ? 0 : 1);
  }

  /** Whether it can take over what others computed: not where something is to be told of each of its prompt's tokens. */
  get readsPrefixes(): boolean {
    return this.listener.onPromptLogits === undefined && this.request.parameters.promptLogprobs === undefined;
  }

  get outputLength(): number {
    return this.tokens.length - this.promptLength;
  }

  /** The tokens that must not be chosen as the output's token `index`. */
  bannedAt(index: number): ReadonlySet<number> {
    return index < this.request.parameters.minTokens ? this.request.stopTokens : none;
  }

  /** Tells the listener of a part of the prompt. */
  hear({ first, end, logits, logprobs }: PromptPart): void {
    this.heard = end;
    if (logits !== undefined) this.listener.onPromptLogits!(first, logits);
    if (logprobs !== undefined) this.listener.onPromptLogprobs?.(first + 1, logprobs);
  }

  /** Takes a chosen token, tells the listener, and says why the sequence is over, if it is. */
  accept(token: number, logprobs: Logprobs | undefined): FinishReason | undefined {
    this.tokens.push(token);
    this.unheard--;
    if (this.listener.onToken(token, logprobs) || this.request.stopTokens.has(token)) return 'stop';
    return this.outputLength >= this.request.maxTokens ? 'length' : undefined;
  }
}

const none: ReadonlySet<number> = new Set();
