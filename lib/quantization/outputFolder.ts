import { createHash } from 'node:crypto';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, readJson } from '../checkpoint/jsonFile.js';
import { Qwen2Error } from '../native/errors.js';
import { copyWhole, ioError, isTemporary, tensorBytes, writeWhole } from './shardFile.js';
import type { Shard } from './shards.js';

/** What an output is made from, and how: the same makes the same bytes. */
export interface Identity {
  source: string;
  /** Size in bytes and time of change, of config.json and the weights' files. */
  files: Record<string, [bytes: number, modified: number]>;
  method: string;
  groupSize: number;
  clipSteps: number;
  /** Of the calibration tokens, SHA-256. */
  calibration?: string | undefined;
}

/** Holds the identity as long as the output is not whole. */
const identityFile = 'quantization-in-progress.json';
const indexFile = 'model.safetensors.index.json';
/** Beside the weights: small files that other programs look for. */
const companions = /\.(json|txt|jinja|model|tiktoken)$|^(LICENSE|NOTICE)/;

/**
 * The folder that a quantized checkpoint is written to. Files appear in it whole, config.json the last of them, and while any
 * is missing the folder says what it will be: so an interrupted run is taken up by the next, and by no other.
 */
export class OutputFolder {
  readonly path: string;
  /** Whether everything is there. */
  readonly isFinished: boolean;
  readonly #identity: Identity;

  /** @throws invalid_argument if the folder holds something else; io_error */
  static async open(path: string, identity: Identity): Promise<OutputFolder> {
    const files = await listOrCreate(path);
    if (files.includes(identityFile)) {
      requireSame(path, await readJson(join(path, identityFile)), identity);
      await Promise.all(files.filter(isTemporary).map((file) => rm(join(path, file), { force: true })));
      return new OutputFolder(path, identity, false);
    }
    if (await isWholeOutput(path, files, identity)) return new OutputFolder(path, identity, true);
    const other = files.filter((file) => !(file.startsWith(identityFile) && isTemporary(file)));
    if (other.length > 0)
      throw new Qwen2Error(
        'invalid_argument',
        `${path} holds something else already: ${other.slice(0, 3).join(', ')}${other.length > 3 ? ', …' : ''}; give the path of a new folder`,
      );
    await writeWhole(join(path, identityFile), toJson(identity));
    return new OutputFolder(path, identity, false);
  }

  private constructor(path: string, identity: Identity, isFinished: boolean) {
    this.path = path;
    this.#identity = identity;
    this.isFinished = isFinished;
  }

  pathOf({ fileName }: Shard): string {
    return join(this.path, fileName);
  }

  /** Whether a file is there; if so, it is whole. */
  async has(shard: Shard): Promise<boolean> {
    const found = await stat(this.pathOf(shard)).catch(() => undefined);
    return found?.size === shard.bytes;
  }

  /** Writes what belongs to the shards: the index, copies of the source's other files, and config.json. @throws io_error */
  async finish(shards: readonly Shard[], config: object): Promise<void> {
    const { source, files } = this.#identity;
    const weights = new Set([...Object.keys(files), indexFile]);
    for (const file of await readdir(source))
      if (companions.test(file) && !weights.has(file) && (await stat(join(source, file))).isFile())
        await copyWhole(join(source, file), this.path, file);
    await writeWhole(join(this.path, indexFile), toJson(indexOf(shards, this.#identity)));
    await writeWhole(join(this.path, 'config.json'), toJson(config));
    await rm(join(this.path, identityFile), { force: true });
    for (const file of await readdir(this.path))
      if (isTemporary(file)) await rm(join(this.path, file), { force: true });
  }
}

function indexOf(shards: readonly Shard[], identity: Identity): object {
  const placed = shards.flatMap(({ fileName, tensors }) => tensors.map(({ name }) => [name, fileName]));
  const tensors = shards.flatMap(({ tensors }) => tensors);
  const total_size = tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
  return { metadata: { total_size, quantized_from: digestOf(identity) }, weight_map: Object.fromEntries(placed) };
}

async function isWholeOutput(path: string, files: readonly string[], identity: Identity): Promise<boolean> {
  if (!files.includes('config.json') || !files.includes(indexFile)) return false;
  const index = (await readJson(join(path, indexFile))) as { metadata?: { quantized_from?: unknown } } | null;
  return index?.metadata?.quantized_from === digestOf(identity);
}

async function listOrCreate(path: string): Promise<string[]> {
  try {
    await mkdir(path, { recursive: true });
    return await readdir(path);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EEXIST' || code === 'ENOTDIR')
      throw new Qwen2Error('invalid_argument', `${path} is a file; give the path of a new folder`, { cause });
    throw ioError(path, cause);
  }
}

function requireSame(path: string, found: unknown, identity: Identity): void {
  const there = (typeof found === 'object' && found !== null ? found : {}) as Record<string, unknown>;
  const here = JSON.parse(JSON.stringify(identity)) as Record<string, unknown>;
  const differing = Object.keys({ ...here, ...there }).find((name) => toJson(there[name]) !== toJson(here[name]));
  if (differing === undefined) return;
  const how =
    differing === 'files' || differing === 'calibration'
      ? `${differing} changed`
      : `${differing} was ${describe(there[differing])}, and is ${describe(here[differing])} now`;
  throw new Qwen2Error(
    'invalid_argument',
    `${path} holds the unfinished output of a run whose ${how}; go on with what it was, or remove ${basename(path)}`,
  );
}

function digestOf(identity: Identity): string {
  return createHash('sha256').update(toJson(identity)).digest('hex');
}

function toJson(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
