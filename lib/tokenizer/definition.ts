import { Qwen2Error } from '../native/errors.js';
import { byteAlphabet, writeSpelledBytes } from './byteLevel.js';
import { maxMerges } from './bytePairEncoder.js';
import { MergeTable } from './mergeTable.js';
import { translatePattern } from './pieces.js';
import type { AddedToken, VocabularyData } from './vocabulary.js';

/** All that turning text into tokens and back takes, as tokenizer.json and tokenizer_config.json describe it. */
export interface TokenizerDefinition {
  readonly vocabulary: VocabularyData;
  /** Whether text is brought into Unicode normalization form C first. */
  readonly normalizes: boolean;
  /** Its matches, and what lies between them, are the pieces that BPE works on, each alone. */
  readonly pieces: RegExp;
  /** The token of each byte; 256 entries. */
  readonly byteIds: Int32Array;
  readonly merges: MergeTable;
}

export type JsonObject = { readonly [key: string]: unknown };

/** Ids from here on are taken for damage: the id table would need gigabytes. Qwen2's end at 151,645. */
const maxTokens = 2 ** 24;

/**
 * Reads a tokenizer out of the two parsed files.
 *
 * @param path of tokenizer.json, for messages
 * @throws {Qwen2Error} `invalid_checkpoint` if something is missing or inconsistent; `unsupported` if it is a tokenizer
 *   of another kind than Qwen2's: byte-level BPE over pieces that one regular expression finds
 */
export function readDefinition(path: string, tokenizer: JsonObject, config: JsonObject): TokenizerDefinition {
  const model = asObject(tokenizer.model, `${path}: model`);
  requireKind(path, 'model.type', model.type, 'BPE');
  for (const option of ['dropout', 'continuing_subword_prefix', 'end_of_word_suffix', 'ignore_merges']) {
    if (model[option]) throw unsupported(path, `model.${option} is ${JSON.stringify(model[option])}`);
  }
  const ids = readVocab(path, model);
  const addedTokens = readAddedTokens(path, tokenizer, config);
  const byteIds = Int32Array.from(byteAlphabet, (character, byte) => {
    const id = ids.get(character);
    if (id === undefined) throw damaged(path, `model.vocab has no token for byte ${byte}`);
    return id;
  });
  return {
    vocabulary: tabulate(path, ids, addedTokens),
    normalizes: readNormalizer(path, tokenizer.normalizer),
    pieces: readPieces(path, tokenizer.pre_tokenizer),
    byteIds,
    merges: readMerges(path, model, ids),
  };
}

/** The value as a JSON object. @throws {Qwen2Error} `invalid_checkpoint`, beginning with `what`, if it is none */
export function asObject(value: unknown, what: string): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw new Qwen2Error('invalid_checkpoint', `${what} must be a JSON object; found ${describe(value)}`);
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  return Array.isArray(value) ? 'an array' : `a ${typeof value}`;
}

function readVocab(path: string, model: JsonObject): Map<string, number> {
  const ids = new Map(Object.entries(asObject(model.vocab, `${path}: model.vocab`)));
  for (const [token, id] of ids) requireId(path, token, id);
  return ids as Map<string, number>;
}

function requireId(path: string, token: string, id: unknown): number {
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < maxTokens) return id;
  throw damaged(path, `token ${JSON.stringify(token)} has id ${JSON.stringify(id)}; expected an integer from 0 on`);
}

/** Rank is the place in the list. A merge is spelled "left right" or ["left", "right"]. */
function readMerges(path: string, model: JsonObject, ids: ReadonlyMap<string, number>): MergeTable {
  if (!Array.isArray(model.merges))
    throw damaged(path, `model.merges must be an array; found ${describe(model.merges)}`);
  if (model.merges.length > maxMerges)
    throw unsupported(path, `model.merges has ${model.merges.length} entries, more than ${maxMerges}`);
  const merges = new MergeTable(model.merges.length);
  for (const [rank, merge] of model.merges.entries()) {
    const [left, right, ...more]: unknown[] =
      typeof merge === 'string' ? merge.split(' ') : Array.isArray(merge) ? merge : [];
    if (typeof left !== 'string' || typeof right !== 'string' || more.length > 0) {
      throw damaged(path, `model.merges[${rank}] is ${JSON.stringify(merge)}; expected two tokens`);
    }
    const [leftId, rightId, merged] = [ids.get(left), ids.get(right), ids.get(left + right)];
    if (leftId === undefined || rightId === undefined || merged === undefined) {
      throw damaged(
        path,
        `model.merges[${rank}] joins ${JSON.stringify(left)} and ${JSON.stringify(right)}, but one of them or the result is not in model.vocab`,
      );
    }
    merges.add(leftId, rightId, rank, merged);
  }
  return merges;
}

/** The added tokens of tokenizer.json, then those that only tokenizer_config.json's added_tokens_decoder knows. */
function readAddedTokens(path: string, tokenizer: JsonObject, config: JsonObject): AddedToken[] {
  const listed = Array.isArray(tokenizer.added_tokens) ? tokenizer.added_tokens : [];
  const configured = Object.entries(
    asObject(config.added_tokens_decoder ?? {}, 'tokenizer_config.json: added_tokens_decoder'),
  );
  const tokens = new Map<string, AddedToken>();
  const contents = new Map<number, string>();
  for (const entry of [
    ...listed,
    ...configured.map(([id, token]) => ({ ...asObject(token, `added token ${id}`), id: Number(id) })),
  ]) {
    const token = readAddedToken(path, asObject(entry, `${path}: an added token`));
    if (tokens.has(token.content)) continue;
    const other = contents.get(token.id);
    if (other !== undefined)
      throw damaged(path, `${JSON.stringify(other)} and ${JSON.stringify(token.content)} both have id ${token.id}`);
    tokens.set(token.content, token);
    contents.set(token.id, token.content);
  }
  return [...tokens.values()];
}

function readAddedToken(path: string, token: JsonObject): AddedToken {
  const { content, id } = token;
  if (typeof content !== 'string' || content === '')
    throw damaged(path, `the added token with id ${String(id)} has no content`);
  for (const option of ['lstrip', 'rstrip', 'single_word']) {
    if (token[option]) throw unsupported(path, `added token ${JSON.stringify(content)} has ${option} set`);
  }
  const special = token.special === true;
  return {
    id: requireId(path, content, id),
    content,
    special,
    normalized: token.normalized === undefined ? !special : token.normalized === true,
  };
}

function readNormalizer(path: string, normalizer: unknown): boolean {
  if (normalizer === null || normalizer === undefined) return false;
  requireKind(path, 'normalizer.type', asObject(normalizer, `${path}: normalizer`).type, 'NFC');
  return true;
}

/** The pattern of the one Split in [Split, ByteLevel], translated from Oniguruma's syntax to JavaScript's. */
function readPieces(path: string, preTokenizer: unknown): RegExp {
  const { type, pretokenizers } = asObject(preTokenizer, `${path}: pre_tokenizer`);
  requireKind(path, 'pre_tokenizer.type', type, 'Sequence');
  if (!Array.isArray(pretokenizers) || pretokenizers.length !== 2) {
    throw unsupported(path, 'pre_tokenizer is not a Sequence of Split and ByteLevel');
  }
  const [split, byteLevel] = pretokenizers.map((step, i) =>
    asObject(step, `${path}: pre_tokenizer.pretokenizers[${i}]`),
  ) as [JsonObject, JsonObject];
  requireKind(path, 'the first pre-tokenizer', split.type, 'Split');
  requireKind(path, 'the second pre-tokenizer', byteLevel.type, 'ByteLevel');
  if (byteLevel.use_regex !== false || byteLevel.add_prefix_space) {
    throw unsupported(path, 'ByteLevel splits the text or adds a space');
  }
  requireKind(path, "Split's behavior", split.behavior, 'Isolated');
  const source = asObject(split.pattern, `${path}: Split's pattern`).Regex;
  if (typeof source !== 'string' || split.invert)
    throw unsupported(path, 'Split has no regular expression, or inverts it');
  const pattern = translatePattern(source);
  if (pattern === undefined) throw unsupported(path, `Split's regular expression is ${source}`);
  return pattern;
}

/** The bytes of every id: the vocabulary's entries spell theirs in the byte alphabet, added tokens are plain text. */
function tabulate(path: string, ids: ReadonlyMap<string, number>, addedTokens: readonly AddedToken[]): VocabularyData {
  const contents = new Map<number, Uint8Array>(
    addedTokens.map(({ id, content }) => [id, new TextEncoder().encode(content)]),
  );
  const spellings: (string | undefined)[] = [];
  let bound = 0;
  let size = 0;
  for (const [token, id] of ids) {
    if (spellings[id] !== undefined)
      throw damaged(path, `${JSON.stringify(spellings[id])} and ${JSON.stringify(token)} both have id ${id}`);
    spellings[id] = token;
    bound += token.length;
    size = Math.max(size, id + 1);
  }
  for (const [id, content] of contents) {
    bound += content.length;
    size = Math.max(size, id + 1);
  }
  const bytes = new Uint8Array(bound);
  const offsets = new Uint32Array(size + 1);
  let end = 0;
  for (let id = 0; id < size; id++) {
    const content = contents.get(id);
    if (content !== undefined) {
      bytes.set(content, end);
      end += content.length;
    } else {
      end = writeSpelledBytes(spellings[id] ?? '', bytes, end);
      if (end < 0)
        throw damaged(path, `token ${JSON.stringify(spellings[id])} is not spelled in the byte-level alphabet`);
    }
    offsets[id + 1] = end;
  }
  return { bytes: bytes.slice(0, end), offsets, addedTokens };
}

function requireKind(path: string, what: string, found: unknown, expected: string): void {
  if (found === undefined) throw damaged(path, `${what} is missing`);
  if (found !== expected)
    throw unsupported(path, `${what} is ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
}

function damaged(path: string, what: string): Qwen2Error {
  return new Qwen2Error('invalid_checkpoint', `${path}: ${what}; download the file again`);
}

function unsupported(path: string, what: string): Qwen2Error {
  return new Qwen2Error(
    'unsupported',
    `${path}: ${what}; supported is byte-level BPE as in Qwen2's own tokenizer.json`,
  );
}
