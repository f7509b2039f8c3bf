import { Template } from '@huggingface/jinja';
import { Qwen2Error } from '../native/errors.js';
import { ControlTokenGuard } from './controlTokenGuard.js';
import type { JsonObject } from './definition.js';

/** A turn of a conversation. Further fields, such as `tool_calls`, reach the template as they are. */
export interface ChatMessage {
  /** 'system', 'user', 'assistant', or what the checkpoint's template knows besides. */
  role: string;
  content: string;
  [field: string]: unknown;
}

export interface ChatOptions {
  /** Whether the text ends where the assistant's answer begins. Default true. */
  addGenerationPrompt?: boolean | undefined;
  /** Descriptions of functions that the model may call, as the checkpoint's template expects them. */
  tools?: readonly object[] | undefined;
}

/** A piece of a rendered conversation: the id of a control token that the template wrote, or text. */
export type ChatSegment = number | string;

/** A checkpoint's chat template, in Jinja. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #specialTokens: Record<string, string>;
  readonly #guard: ControlTokenGuard;

  /**
   * @param config tokenizer_config.json, for the names of special tokens
   * @param specialTokens ids of the tokens that message contents must not forge, by their content
   * @throws invalid_checkpoint if the template can't be parsed
   */
  constructor(source: string, config: JsonObject, specialTokens: ReadonlyMap<string, number>) {
    try {
      this.#template = new Template(source);
    } catch (cause) {
      throw new Qwen2Error('invalid_checkpoint', `The chat template can't be parsed: ${(cause as Error).message}`, {
        cause,
      });
    }
    this.#specialTokens = namedTokens(config);
    this.#guard = new ControlTokenGuard(specialTokens);
  }

  /** The conversation as text, exactly as Hugging Face renders it: a control token in a content is not marked as text. */
  render(messages: readonly ChatMessage[], { addGenerationPrompt = true, tools }: ChatOptions): string {
    try {
      return this.#template.render({
        ...this.#specialTokens,
        messages,
        add_generation_prompt: addGenerationPrompt,
        ...(tools && { tools }),
      });
    } catch (cause) {
      const message = `The checkpoint's chat template refuses these messages: ${(cause as Error).message}`;
      throw new Qwen2Error('invalid_argument', message, { cause });
    }
  }

  /** The conversation as text and control tokens, of which all are the template's own. */
  renderSegments(messages: readonly ChatMessage[], options: ChatOptions): ChatSegment[] {
    const { protect, split } = this.#guard.session();
    const guarded = messages.map((message) => ({ ...protect(message), role: message.role }));
    return split(this.render(guarded, { ...options, tools: options.tools && protect(options.tools) }));
  }
}

/** bos_token, eos_token, … as templates name them. */
function namedTokens(config: JsonObject): Record<string, string> {
  const names: Record<string, string> = {};
  for (const name of ['bos_token', 'eos_token', 'pad_token', 'unk_token']) {
    const value = config[name];
    const content = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
    if (typeof content === 'string') names[name] = content;
  }
  return names;
}

/** @throws invalid_argument naming the message that is wrong */
export function checkMessages(messages: readonly ChatMessage[]): void {
  const wrong = (what: string) => new Qwen2Error('invalid_argument', what);
  if (!Array.isArray(messages) || messages.length === 0)
    throw wrong('messages must be a list of one or more { role, content }');
  for (const [i, message] of messages.entries()) {
    if (typeof message !== 'object' || message === null) throw wrong(`messages[${i}] must be { role, content }`);
    const { role, content } = message;
    if (typeof role !== 'string' || !/^[\w-]+$/.test(role))
      throw wrong(`messages[${i}].role is ${JSON.stringify(role)}; expected a word, such as 'user'`);
    if (typeof content !== 'string')
      throw wrong(
        `messages[${i}].content is ${content === null ? 'null' : `of type ${typeof content}`}; expected a string`,
      );
  }
}
