import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Qwen2Error, throwIfAborted } from '../native/errors.js';
import { type Qwen2Config, readConfig } from './config.js';
import { type GenerationConfig, readGenerationConfig } from './generationConfig.js';
import { describe, JsonFields, readJson } from './jsonFile.js';
import { readSafetensorsHeader, type TensorEntry } from './safetensors.js';

/** A Hugging Face folder, opened: everything but the tensors' bytes. */
export interface Checkpoint {
  folder: string;
  config: Qwen2Config;
  generationConfig: GenerationConfig;
  tensors: ReadonlyMap<string, TensorEntry>;
  /** Of all tensors. */
  byteLength: number;
}

const singleFile = 'model.safetensors';
const indexFile = 'model.safetensors.index.json';
/** Headers read at the same time. */
const readers = 8;

/** @throws not_found, invalid_checkpoint, unsupported, io_error, aborted */
export async function openCheckpoint(
  folder: string,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Checkpoint> {
  const files = await listFolder(folder);
  if (!files.has('config.json'))
    throw new Qwen2Error('not_found', `${folder} has no config.json; give the folder of a Hugging Face checkpoint`);
  const config = await readConfig(folder);
  const generationConfig = await readGenerationConfig(folder, config);
  throwIfAborted(signal, 'Loading');
  const tensors = await readTensors(folder, files, signal);
  const byteLength = [...tensors.values()].reduce((sum, entry) => sum + entry.byteLength, 0);
  return { folder, config, generationConfig, tensors, byteLength };
}

async function listFolder(folder: string): Promise<ReadonlySet<string>> {
  try {
    return new Set(await readdir(folder));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new Qwen2Error('not_found', `There is no folder ${folder}`, { cause });
    if (code === 'ENOTDIR')
      throw new Qwen2Error('not_found', `${folder} is a file; give the folder of a Hugging Face checkpoint`, { cause });
    throw new Qwen2Error('io_error', `${folder} can't be read: ${message}`, { cause });
  }
}

async function readTensors(folder: string, files: ReadonlySet<string>, signal: AbortSignal | undefined) {
  if (files.has(indexFile)) return readShards(folder, files, signal);
  if (files.has(singleFile)) return readSafetensorsHeader(join(folder, singleFile));
  const other = [...files].find((file) => /\.(bin|pt|pth|gguf|safetensors)$/.test(file));
  if (other !== undefined)
    throw new Qwen2Error(
      'unsupported',
      `${folder} has ${other}, but neither ${singleFile} nor ${indexFile}; qwen2-node reads safetensors under these names`,
    );
  throw new Qwen2Error('not_found', `${folder} has neither ${singleFile} nor ${indexFile}`);
}

async function readShards(
  folder: string,
  files: ReadonlySet<string>,
  signal: AbortSignal | undefined,
): Promise<Map<string, TensorEntry>> {
  const indexPath = join(folder, indexFile);
  const shardOf = await readIndex(indexPath);
  const shards = [...new Set(shardOf.values())].sort();
  for (const shard of shards) {
    if (files.has(shard)) continue;
    const count = [...shardOf.values()].filter((name) => name === shard).length;
    throw new Qwen2Error(
      'not_found',
      `${folder} lacks ${shard}, which holds ${count} of its tensors; download it again`,
    );
  }
  const tensors = new Map<string, TensorEntry>();
  for (let i = 0; i < shards.length; i += readers) {
    throwIfAborted(signal, 'Loading');
    const batch = shards.slice(i, i + readers);
    const headers = await Promise.all(batch.map((shard) => readSafetensorsHeader(join(folder, shard))));
    for (const [j, header] of headers.entries())
      for (const entry of header.values()) addEntry(tensors, entry, batch[j]!, shardOf.get(entry.name), indexPath);
  }
  const missing = [...shardOf].find(([name]) => !tensors.has(name));
  if (missing)
    throw new Qwen2Error(
      'invalid_checkpoint',
      `${indexPath} places ${missing[0]} in ${missing[1]}, which does not hold it`,
    );
  return tensors;
}

async function readIndex(path: string): Promise<Map<string, string>> {
  const fields = new JsonFields(await readJson(path), path);
  const map = fields.value('weight_map');
  if (typeof map !== 'object' || map === null || Array.isArray(map)) throw fields.wrong('weight_map', 'an object');
  const shardOf = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== 'string' || !/^[\w.-]+\.safetensors$/.test(shard))
      throw new Qwen2Error(
        'invalid_checkpoint',
        `${path}: ${name} is placed in ${describe(shard)}; expected the name of a *.safetensors file beside it`,
      );
    shardOf.set(name, shard);
  }
  return shardOf;
}

function addEntry(
  tensors: Map<string, TensorEntry>,
  entry: TensorEntry,
  shard: string,
  expectedShard: string | undefined,
  indexPath: string,
): void {
  if (expectedShard === shard) {
    tensors.set(entry.name, entry);
    return;
  }
  const said = expectedShard === undefined ? 'does not list it' : `places it in ${expectedShard}`;
  throw new Qwen2Error('invalid_checkpoint', `${shard} holds ${entry.name}, but ${indexPath} ${said}`);
}
