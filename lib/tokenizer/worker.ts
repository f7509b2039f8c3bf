/**
 * The thread of a tokenizer: reads the files, which takes tens of milliseconds, and encodes, so that the thread of
 * JavaScript does neither. It answers requests in their order.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { Qwen2Error } from '../native/errors.js';
import { type ChatSegment, ChatTemplate } from './chatTemplate.js';
import { readDefinition } from './definition.js';
import { Encoder } from './encoder.js';
import { readTokenizerFiles } from './files.js';
import type { Request, Response } from './messages.js';

const port = parentPort!;

try {
  await serve(workerData as string);
} catch (error) {
  answerError(undefined, error);
}

async function serve(folder: string): Promise<void> {
  const { path, tokenizer, config, chatTemplate } = await readTokenizerFiles(folder);
  const definition = readDefinition(path, tokenizer, config);
  const { vocabulary } = definition;
  const encoder = new Encoder(definition);
  const specialTokens = new Map(
    vocabulary.addedTokens.filter(({ special }) => special).map(({ content, id }) => [content, id]),
  );
  const template = chatTemplate === undefined ? undefined : new ChatTemplate(chatTemplate, config, specialTokens);
  const parts = new Map<number, string[]>();
  port.on('message', (request: Request) => {
    try {
      if (request.kind === 'part') addPart(request.id, request.text);
      else answer(request.id, handle(request));
    } catch (error) {
      answerError(request.id, error);
    }
  });
  // The bytes stay here too: only what this thread does not need again is moved instead of copied.
  send({ kind: 'ready', vocabulary, hasChatTemplate: template !== undefined }, [
    vocabulary.bytes.buffer,
    vocabulary.offsets.buffer,
  ]);

  function addPart(id: number, text: string): void {
    const known = parts.get(id);
    if (known) known.push(text);
    else parts.set(id, [text]);
  }

  function handle(request: Exclude<Request, { kind: 'part' }>): Int32Array | string {
    if (request.kind === 'render') return template!.render(request.messages, request.options);
    const isCancelled = () => Atomics.load(request.cancelled, 0) !== 0;
    if (request.kind === 'encodeChat')
      return encodeSegments(template!.renderSegments(request.messages, request.options), isCancelled);
    const text = (parts.get(request.id) ?? []).join('');
    parts.delete(request.id);
    return Int32Array.from(encoder.encode(text, { parseSpecial: request.parseSpecial, isCancelled }));
  }

  function encodeSegments(segments: readonly ChatSegment[], isCancelled: () => boolean): Int32Array {
    const ids: number[] = [];
    for (const segment of segments) {
      if (typeof segment === 'number') ids.push(segment);
      else for (const id of encoder.encode(segment, { parseSpecial: false, isCancelled })) ids.push(id);
    }
    return Int32Array.from(ids);
  }
}

function answer(id: number, result: Int32Array | string): void {
  send({ kind: 'done', id, result }, typeof result === 'string' ? [] : [result.buffer as ArrayBuffer]);
}

function answerError(id: number | undefined, error: unknown): void {
  const code = error instanceof Qwen2Error ? error.code : 'internal';
  send({ kind: 'failed', id, code, message: error instanceof Error ? error.message : String(error) });
}

function send(response: Response, moved: ArrayBuffer[] = []): void {
  port.postMessage(response, moved);
}
