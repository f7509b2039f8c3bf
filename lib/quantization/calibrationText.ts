import { createHash } from 'node:crypto';
import type { Checkpoint } from '../checkpoint/folder.js';
import { Qwen2Error } from '../native/errors.js';
import { hasTokenizer, loadTokenizer } from '../tokenizer/tokenizer.js';
import type { ResolvedOptions } from './options.js';

/**
 * Sequences of token ids, all of one length, evenly spread over the calibration text.
 *
 * @throws invalid_argument for a text of no tokens, or ids that the model does not have; what loadTokenizer throws
 */
export async function calibrationSequences(
  checkpoint: Checkpoint,
  options: ResolvedOptions,
): Promise<Int32Array<ArrayBuffer>[]> {
  const { calibration, calibrationSequences: most, calibrationLength, signal } = options;
  const { folder, config } = checkpoint;
  const tokens = typeof calibration === 'string' ? await encode(folder, calibration, signal) : calibration!.tokens;
  if (tokens.length === 0) throw invalid('calibration has no tokens; give a text like those that the model will see');
  const length = Math.min(calibrationLength, config.contextLength, tokens.length);
  const count = Math.min(most, Math.floor(tokens.length / length));
  const spread = count > 1 ? (tokens.length - length) / (count - 1) : 0;
  return Array.from({ length: count }, (_, i) => {
    const start = Math.floor(i * spread);
    const sequence = tokens.slice(start, start + length);
    const wrong = sequence.find((id) => !(Number.isInteger(id) && id >= 0 && id < config.vocabularySize));
    if (wrong !== undefined)
      throw invalid(`calibration has the token id ${wrong}; the model knows 0 to ${config.vocabularySize - 1}`);
    return Int32Array.from(sequence);
  });
}

/** What tells one choice of tokens from another. */
export function digestOf(sequences: readonly Int32Array<ArrayBuffer>[]): string {
  const hash = createHash('sha256').update(`${sequences.length} × ${sequences[0]!.length}`);
  for (const { buffer } of sequences) hash.update(new Uint8Array(buffer));
  return hash.digest('hex');
}

async function encode(folder: string, text: string, signal: AbortSignal | undefined): Promise<readonly number[]> {
  if (!(await hasTokenizer(folder)))
    throw invalid(`${folder} has no tokenizer for the calibration text; give its ids as { tokens }`);
  const tokenizer = await loadTokenizer(folder, { signal });
  try {
    return await tokenizer.encode(text, { signal });
  } finally {
    await tokenizer.dispose();
  }
}

function invalid(message: string): Qwen2Error {
  return new Qwen2Error('invalid_argument', message);
}
