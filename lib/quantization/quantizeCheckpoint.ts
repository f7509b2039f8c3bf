import { realpath, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type Checkpoint, openCheckpoint } from '../checkpoint/folder.js';
import { readJson } from '../checkpoint/jsonFile.js';
import { TensorReader } from '../checkpoint/tensorReader.js';
import type { SourceTensor } from '../model/names.js';
import { planWeights } from '../model/plan.js';
import { openDevice } from '../native/device.js';
import { Qwen2Error, throwIfAborted } from '../native/errors.js';
import { AwqScales } from './awq.js';
import { calibrationSequences, digestOf } from './calibrationText.js';
import { type QuantizeOptions, type ResolvedOptions, resolveOptions } from './options.js';
import { type Identity, OutputFolder } from './outputFolder.js';
import { planShards, type Shard } from './shards.js';
import { type Scales, ShardWriter } from './shardWriter.js';

export type { QuantizeOptions, QuantizeProgress } from './options.js';

export interface QuantizeResult {
  /** Files of weights that were written, and those that an earlier run had left. */
  written: number;
  found: number;
  /** Bytes of all of them. */
  bytes: number;
}

/**
 * Rounds the matrices of a checkpoint's layers to 4 bits, and writes a checkpoint in AWQ's format (version "gemm"), which
 * this package, vLLM, and transformers with AutoAWQ read. Embeddings and LM head stay as they are; what is not rounded is
 * written as f16, what AWQ's own kernels compute in.
 *
 * Files are written whole, one a layer: interrupted by whatever, the same call goes on behind the last of them, to the same
 * bytes. Memory is that of a layer, never of the model.
 *
 * @param source a Hugging Face folder of a Qwen2 in bf16, f16 or f32
 * @param out the path of the new folder
 * @throws not_found, invalid_checkpoint or unsupported for the source; invalid_argument for an option, an `out` that holds
 *   something else, or a groupSize that does not divide the columns of a matrix; io_error; out_of_memory;
 *   device_unavailable; aborted
 */
export async function quantizeCheckpoint(
  source: string,
  out: string,
  options: QuantizeOptions = {},
): Promise<QuantizeResult> {
  const resolved = resolveOptions(options);
  const { signal, groupSize, clipSteps, method } = resolved;
  throwIfAborted(signal, 'Quantizing');
  const checkpoint = await openFloats(source, signal);
  const shards = planShards(checkpoint, groupSize);
  const sequences = method === 'awq' ? await calibrationSequences(checkpoint, resolved) : [];
  const calibration = sequences.length > 0 ? digestOf(sequences) : undefined;
  const identity = { ...(await identify(checkpoint)), method, groupSize, clipSteps, calibration };
  const folder = await OutputFolder.open(out, identity);
  const bytes = shards.reduce((sum, shard) => sum + shard.bytes, 0);
  if (folder.isFinished) return { written: 0, found: shards.length, bytes };
  const written = await writeShards(checkpoint, shards, sequences, folder, resolved);
  await folder.finish(shards, await quantizedConfig(checkpoint, groupSize));
  return { written, found: shards.length - written, bytes };
}

/** Writes the files that are not there. Returns how many. */
async function writeShards(
  checkpoint: Checkpoint,
  shards: readonly Shard[],
  sequences: readonly Int32Array[],
  folder: OutputFolder,
  options: ResolvedOptions,
): Promise<number> {
  const { signal, clipSteps, groupSize, onProgress } = options;
  const totalBytes = shards.reduce((sum, shard) => sum + sourceBytes(shard), 0);
  let doneBytes = 0;
  const onBytes = (bytes: number) => {
    doneBytes += bytes;
    onProgress?.({ doneBytes, totalBytes });
  };
  const device = await openDevice(options.device, options);
  const stream = device.createStream();
  const reader = new TensorReader(stream);
  const writer = new ShardWriter(device, stream, reader, { clipSteps, signal, onBytes });
  let awq: AwqScales | undefined;
  let written = 0;
  try {
    for (const shard of shards) {
      throwIfAborted(signal, 'Quantizing');
      if (await folder.has(shard)) {
        onBytes(sourceBytes(shard));
        continue;
      }
      const write = (scalesOf: (source: SourceTensor) => Scales) => writer.write(folder.pathOf(shard), shard, scalesOf);
      if (shard.layer === undefined || sequences.length === 0) await write(() => ({}));
      else {
        const given = { sequences, groupSize, clipSteps, signal };
        awq ??= await AwqScales.start(checkpoint, device, stream, reader, given);
        await awq.ofLayer(shard, write);
      }
      written++;
    }
    throwIfAborted(signal, 'Quantizing');
    return written;
  } finally {
    await Promise.all([awq?.dispose(), reader.close()]);
    await device.trimStaging();
    stream.dispose();
    device.dispose();
  }
}

function sourceBytes({ sources }: Shard): number {
  return sources.reduce((sum, { entry }) => sum + entry.byteLength, 0);
}

/** A checkpoint whose tensors are all there, none of them of 4 bits. */
async function openFloats(source: string, signal: AbortSignal | undefined): Promise<Checkpoint> {
  const checkpoint = await openCheckpoint(source, { signal });
  if (checkpoint.config.quantization !== undefined)
    throw new Qwen2Error(
      'invalid_argument',
      `${source} has 4-bit weights already; give a checkpoint in bf16, f16 or f32`,
    );
  await planWeights(checkpoint);
  return checkpoint;
}

async function identify({ folder, tensors }: Checkpoint): Promise<Pick<Identity, 'source' | 'files'>> {
  const paths = new Set([join(folder, 'config.json'), ...[...tensors.values()].map(({ path }) => path)]);
  const files: Identity['files'] = {};
  for (const path of [...paths].sort()) {
    const { size, mtimeMs } = await stat(path);
    files[basename(path)] = [size, mtimeMs];
  }
  return { source: await realpath(folder), files };
}

/** config.json as the source has it, with what the written tensors are. */
async function quantizedConfig({ folder }: Checkpoint, groupSize: number): Promise<object> {
  const config = (await readJson(join(folder, 'config.json'))) as Record<string, unknown>;
  return {
    ...config,
    [config.dtype === undefined ? 'torch_dtype' : 'dtype']: 'float16',
    quantization_config: {
      bits: 4,
      group_size: groupSize,
      modules_to_not_convert: null,
      quant_method: 'awq',
      version: 'gemm',
      zero_point: true,
    },
  };
}
