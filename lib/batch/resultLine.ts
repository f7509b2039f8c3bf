import type { Logprobs } from '../engine/sequence.js';
import type { ChoiceResult } from '../generation/choice.js';
import type { GenerationResult } from '../generation/generation.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import type { BatchOutcome } from './generateBatch.js';
import type { RequestLine } from './requestLine.js';

/** Turns outcomes into lines: OpenAI's for OpenAI's, plain ones for plain ones. */
export class ResultLines {
  readonly #tokenizer: Tokenizer | undefined;
  readonly #run = Math.random().toString(36).slice(2, 10);
  #count = 0;

  /** @param tokenizer for the texts of tokens, where log-probabilities were asked for */
  constructor(tokenizer: Tokenizer | undefined) {
    this.#tokenizer = tokenizer;
  }

  lineOf(line: Pick<RequestLine, 'form' | 'model'>, outcome: BatchOutcome): string {
    return JSON.stringify(line.form === 'plain' ? plainLine(outcome) : this.#openAiLine(line, outcome));
  }

  #openAiLine({ form, model }: Pick<RequestLine, 'form' | 'model'>, { id, result, error }: BatchOutcome) {
    const number = `${this.#run}-${++this.#count}`;
    const line = { id: `batch_req_${number}`, custom_id: id };
    if (error) return { ...line, response: null, error: { code: error.code, message: error.message } };
    const body = form === 'chat' ? this.#chatBody(result) : this.#completionBody(result);
    const { promptTokens, completionTokens } = result.usage;
    const head = {
      id: `${form === 'chat' ? 'chatcmpl' : 'cmpl'}-${number}`,
      created: Math.floor(Date.now() / 1000),
      model,
    };
    const usage = {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
    };
    return {
      ...line,
      response: { status_code: 200, request_id: `req_${number}`, body: { ...head, ...body, usage } },
      error: null,
    };
  }

  #chatBody({ choices }: GenerationResult) {
    return {
      object: 'chat.completion',
      choices: choices.map(({ index, text, finishReason, logprobs }) => ({
        index,
        message: { role: 'assistant', content: text },
        logprobs: logprobs ? { content: logprobs.map((entry) => this.#chatLogprobs(entry)) } : null,
        finish_reason: finishReason,
      })),
    };
  }

  #chatLogprobs({ token, logprob, top }: Logprobs) {
    const entryOf = (token: number, logprob: number) => {
      const text = this.#textOf(token);
      return { token: text, logprob, bytes: [...Buffer.from(text)] };
    };
    return { ...entryOf(token, logprob), top_logprobs: top.map(({ token, logprob }) => entryOf(token, logprob)) };
  }

  #completionBody({ choices }: GenerationResult) {
    return {
      object: 'text_completion',
      choices: choices.map((choice) => ({
        index: choice.index,
        text: choice.text,
        logprobs: this.#completionLogprobs(choice),
        finish_reason: choice.finishReason,
      })),
    };
  }

  #completionLogprobs({ logprobs }: ChoiceResult) {
    if (!logprobs) return null;
    const texts = logprobs.map(({ token }) => this.#textOf(token));
    return {
      tokens: texts,
      token_logprobs: logprobs.map(({ logprob }) => logprob),
      top_logprobs: logprobs.map(({ top }) =>
        Object.fromEntries(top.map(({ token, logprob }) => [this.#textOf(token), logprob])),
      ),
      text_offset: offsetsOf(texts),
    };
  }

  #textOf(token: number): string {
    return this.#tokenizer?.decode([token], { skipSpecial: false }) ?? String(token);
  }
}

/** Where each text begins in all of them together. */
function offsetsOf(texts: readonly string[]): number[] {
  let offset = 0;
  return texts.map((text) => {
    offset += text.length;
    return offset - text.length;
  });
}

function plainLine({ id, result, error }: BatchOutcome) {
  if (error) return { id, error: { code: error.code, message: error.message } };
  const { choices, promptLogprobs, usage } = result;
  const [first] = choices;
  const { index: _, ...only } = first!;
  return choices.length === 1
    ? { id, ...only, ...(promptLogprobs && { promptLogprobs }), usage }
    : { id, choices, ...(promptLogprobs && { promptLogprobs }), usage };
}

/** The id of a line of results. */
export function idOf(text: string): string | undefined {
  try {
    const { custom_id, id } = JSON.parse(text) as { custom_id?: unknown; id?: unknown };
    const found = custom_id ?? id;
    return typeof found === 'string' ? found : undefined;
  } catch {
    return undefined;
  }
}
