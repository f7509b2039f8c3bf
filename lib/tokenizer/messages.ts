import type { Qwen2ErrorCode } from '../native/errors.js';
import type { ChatMessage, ChatOptions } from './chatTemplate.js';
import type { VocabularyData } from './vocabulary.js';

/** What the tokenizer's thread is asked. A long text comes in parts, so that no copy of it takes long. */
export type Request =
  | { kind: 'part'; id: number; text: string }
  | { kind: 'encode'; id: number; parseSpecial: boolean; cancelled: Int32Array }
  | { kind: 'encodeChat'; id: number; messages: readonly ChatMessage[]; options: ChatOptions; cancelled: Int32Array }
  | { kind: 'render'; id: number; messages: readonly ChatMessage[]; options: ChatOptions };

/** What it answers. The first answer, to no request, is that it is ready. */
export type Response =
  | { kind: 'ready'; vocabulary: VocabularyData; hasChatTemplate: boolean }
  | { kind: 'done'; id: number; result: Int32Array | string }
  | { kind: 'failed'; id: number | undefined; code: Qwen2ErrorCode; message: string };
