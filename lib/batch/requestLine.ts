import { Qwen2Error } from '../native/errors.js';
import type { ChatMessage } from '../tokenizer/chatTemplate.js';
import type { BatchRequest } from './generateBatch.js';

/** How a line's outcome is written: as it was asked. */
export type LineForm = 'plain' | 'chat' | 'completion';

export interface RequestLine {
  form: LineForm;
  request: BatchRequest;
  /** The model's name in the request, which the answer repeats. */
  model: string;
}

type Fields = Record<string, unknown>;

const forms: Readonly<Record<string, LineForm>> = { '/v1/chat/completions': 'chat', '/v1/completions': 'completion' };

/**
 * Reads a line of a batch: OpenAI's `{custom_id, method, url, body}`, or plainly `{id, prompt | messages, …}` with the
 * options of `generate`.
 *
 * @param number of the line: the id of a plain request that has none
 * @throws invalid_argument saying what is wrong with the line
 */
export function parseRequestLine(text: string, number: number): RequestLine {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw invalid(`it is not JSON: ${(cause as Error).message}`);
  }
  const line = objectOf(value, 'it');
  return 'custom_id' in line || 'body' in line ? parseOpenAi(line) : parsePlain(line, number);
}

function parsePlain(line: Fields, number: number): RequestLine {
  const { id = number, prompt, messages, ...options } = line;
  if (typeof id !== 'string' && typeof id !== 'number') throw wrong('id', id, 'a string or a number');
  if ((prompt === undefined) === (messages === undefined))
    throw invalid('it must have prompt or messages, one of them');
  if ('signal' in options) throw invalid("there is no option 'signal' in a file");
  const source = messages === undefined ? { prompt: promptOf(prompt) } : { messages: messagesOf(messages) };
  return { form: 'plain', request: { ...options, ...source, id: String(id) } as BatchRequest, model: '' };
}

function parseOpenAi({ custom_id: id, method = 'POST', url, body: given }: Fields): RequestLine {
  if (typeof id !== 'string' || id === '') throw wrong('custom_id', id, 'a string');
  if (method !== 'POST') throw wrong('method', method, '"POST"');
  const form = typeof url === 'string' ? forms[url] : undefined;
  if (form === undefined) throw wrong('url', url, `one of ${Object.keys(forms).join(', ')}`);
  const body = objectOf(given, 'body');
  const { model = '', prompt, messages, stream = false, ...rest } = body;
  if (stream !== false) throw wrong('stream', stream, 'false: a file is no stream');
  if (typeof model !== 'string') throw wrong('model', model, 'a string');
  const options = optionsOf(rest, form);
  if (form === 'chat') return { form, request: { ...options, id, messages: messagesOf(messages) }, model };
  return { form, request: { ...options, id, prompt: promptOf(prompt) }, model };
}

/** OpenAI's names, and those that vLLM adds, for the options of `generate`. */
const optionNames: Readonly<Record<string, keyof BatchRequest>> = {
  max_tokens: 'maxTokens',
  max_completion_tokens: 'maxTokens',
  temperature: 'temperature',
  top_p: 'topP',
  n: 'n',
  stop: 'stop',
  seed: 'seed',
  presence_penalty: 'presencePenalty',
  frequency_penalty: 'frequencyPenalty',
  logit_bias: 'logitBias',
  logprobs: 'logprobs',
  min_tokens: 'minTokens',
  top_k: 'topK',
  min_p: 'minP',
  repetition_penalty: 'repetitionPenalty',
  stop_token_ids: 'stopTokenIds',
  ignore_eos: 'ignoreEos',
  priority: 'priority',
};

/** What says nothing about the answer. */
const ignored = new Set(['user', 'metadata', 'store', 'service_tier', 'stream_options', 'safety_identifier']);

function optionsOf(fields: Fields, form: LineForm): Fields {
  const options: Fields = {};
  for (const [name, value] of Object.entries(form === 'chat' ? chatLogprobs(fields) : fields)) {
    if (value === null || ignored.has(name)) continue;
    const known = optionNames[name];
    if (known === undefined) {
      if (!isDefault(name, value)) throw invalid(`body has ${name}, ${show(value)}, which is not supported`);
      continue;
    }
    options[known] = value;
  }
  return options;
}

/** In chats, `logprobs` is a yes or no, and `top_logprobs` the number of alternatives. */
function chatLogprobs({ logprobs, top_logprobs: top, ...rest }: Fields): Fields {
  if (logprobs !== undefined && logprobs !== null && typeof logprobs !== 'boolean')
    throw wrong('logprobs', logprobs, 'true or false');
  return logprobs === true ? { ...rest, logprobs: top ?? 0 } : rest;
}

/** Options of which only what they are by default is supported. */
function isDefault(name: string, value: unknown): boolean {
  if (name === 'response_format') return (value as Fields).type === 'text';
  if (name === 'tool_choice') return value === 'none';
  if (name === 'tools') return Array.isArray(value) && value.length === 0;
  if (name === 'best_of') return value === 1;
  return (name === 'echo' && value === false) || (name === 'suffix' && value === '');
}

function promptOf(prompt: unknown): BatchRequest['prompt'] & {} {
  const tokens = Array.isArray(prompt) ? prompt : (prompt as Fields | undefined)?.tokens;
  if (typeof prompt === 'string') return prompt;
  if (Array.isArray(tokens) && tokens.every((id) => typeof id === 'number')) return { tokens };
  throw wrong('prompt', prompt, 'a string, or an array of token ids');
}

function messagesOf(messages: unknown): ChatMessage[] {
  if (!Array.isArray(messages) || messages.length === 0) throw wrong('messages', messages, 'an array of messages');
  return messages.map((given, i) => {
    const message = objectOf(given, `messages[${i}]`);
    if (typeof message.role !== 'string') throw wrong(`messages[${i}].role`, message.role, 'a string');
    return { ...message, role: message.role, content: contentOf(message.content, `messages[${i}].content`) };
  });
}

/** A text, or parts of one. */
function contentOf(content: unknown, where: string): string {
  if (typeof content === 'string') return content;
  if (content === null || content === undefined) return '';
  if (!Array.isArray(content)) throw wrong(where, content, 'a string, or an array of text parts');
  return content
    .map((given, i) => {
      const part = objectOf(given, `${where}[${i}]`);
      if (part.type === 'text' && typeof part.text === 'string') return part.text;
      throw wrong(`${where}[${i}]`, part, '{type: "text", text}; this model reads text only');
    })
    .join('');
}

function objectOf(value: unknown, what: string): Fields {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields;
  throw invalid(`${what} is ${show(value)}; expected an object`);
}

function wrong(name: string, value: unknown, expected: string): Qwen2Error {
  return invalid(`${name} is ${show(value)}; expected ${expected}`);
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'missing';
  return text.length <= 60 ? text : `${text.slice(0, 60)}…`;
}

function invalid(message: string): Qwen2Error {
  return new Qwen2Error('invalid_argument', message);
}
