import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors.js';
import { loadWeights } from '../../lib/model/weights.js';
import { Device } from '../../lib/native/device.js';
import { Qwen2Error } from '../../lib/native/errors.js';
import {
  modelTensors,
  removeFolders,
  safetensors,
  smallCheckpoint,
  smallConfig,
  writeFolder,
} from '../support/checkpointFiles.js';
import { Random } from '../support/random.js';

/** What a caller may meet for a damaged file; anything else would be an error of the reader. */
const expectedCodes = new Set(['invalid_checkpoint', 'unsupported', 'not_found', 'out_of_memory']);
/** Longest time for one input: a hundred times what an undamaged one takes. */
const limitMilliseconds = 2000;

const extremes = [
  '0',
  '-0',
  '-1',
  '1',
  '2',
  '0.5',
  '1e308',
  '1e-308',
  '1e999',
  '-1e999',
  '2147483647',
  '2147483648',
  '4294967296',
  '9007199254740991',
  '9007199254740992',
  '18446744073709551616',
  'null',
  'true',
  '""',
  '"yarn"',
  '[]',
  '{}',
  '[[1]]',
  '[0,0]',
  '[-1]',
  '{"type":"yarn","factor":4}',
];

/** Files of a few kilobytes, so that most of the time goes into reading what is damaged. */
const tinyConfig = { ...smallConfig, hidden_size: 8, intermediate_size: 8, vocab_size: 16 };

type Mutation = (bytes: Buffer, random: Random, length: number) => Buffer;

/** Ways to damage a file; each within its first `length` bytes. */
const mutations: Record<string, Mutation> = {
  'flip bits': (bytes, random, length) => {
    const flipped = Buffer.from(bytes);
    for (let i = random.integer(1, 4); i > 0; i--) flipped[random.integer(0, length - 1)]! ^= 1 << random.integer(0, 7);
    return flipped;
  },
  'replace bytes': (bytes, random, length) => {
    const replaced = Buffer.from(bytes);
    const at = random.integer(0, length - 1);
    const end = Math.min(length, at + random.integer(1, 8));
    for (let i = at; i < end; i++) replaced[i] = random.integer(0, 255);
    return replaced;
  },
  truncate: (bytes, random) => bytes.subarray(0, random.integer(0, bytes.length - 1)),
  'append bytes': (bytes, random) =>
    Buffer.concat([bytes, Buffer.from(Array.from({ length: random.integer(1, 64) }, () => random.integer(0, 255)))]),
  'cut out': (bytes, random, length) => {
    const at = random.integer(0, length - 1);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random.integer(1, 32))]);
  },
  'copy a part elsewhere': (bytes, random, length) => {
    const from = random.integer(0, length - 1);
    const at = random.integer(0, length);
    return Buffer.concat([
      bytes.subarray(0, at),
      bytes.subarray(from, from + random.integer(1, 200)),
      bytes.subarray(at),
    ]);
  },
  'make a number extreme': (bytes, random, length) => replaceMatch(bytes, random, length, /-?\d+(\.\d+)?(e-?\d+)?/g),
  'make a value extreme': (bytes, random, length) =>
    replaceMatch(bytes, random, length, /"[^"]*"|true|false|\[[^\]]*\]/g),
  'leave an entry out': (bytes, random, length) => replaceMatch(bytes, random, length, /"[^"]*":\s*[^,{[]+,\s*/g, ['']),
};

/** Those that mostly leave it JSON, and so reach what reads it: chosen for half of all damage. */
const structural = ['make a number extreme', 'make a value extreme', 'leave an entry out'];

/** Puts another value in the place of one match in the text of the first `length` bytes. */
function replaceMatch(bytes: Buffer, random: Random, length: number, pattern: RegExp, values = extremes): Buffer {
  const matches = [...bytes.toString('latin1', 0, length).matchAll(pattern)];
  if (matches.length === 0) return bytes;
  const { index, 0: old } = random.pick(matches);
  const value = Buffer.from(random.pick(values));
  return Buffer.concat([bytes.subarray(0, index), value, bytes.subarray(index + old.length)]);
}

/** As `safetensors` writes the length of the header: made right again, so that damage within it is reached. */
function withRightLength(file: Buffer, original: Buffer): Buffer {
  if (file.length < 8) return file;
  const header = Number(original.readBigUInt64LE()) + file.length - original.length;
  if (header > 0) file.writeBigUInt64LE(BigInt(header));
  return file;
}

interface Outcomes {
  accepted: number;
  refused: number;
  /** By the code of the error. */
  codes: Map<string, number>;
}

/** Reads one damaged input after another; fails on any outcome but success and a Qwen2Error, soon. */
async function fuzz(
  seed: number,
  runs: number,
  read: (mutate: (bytes: Buffer, length?: number) => Buffer) => Promise<unknown>,
) {
  const random = new Random(seed);
  const outcomes: Outcomes = { accepted: 0, refused: 0, codes: new Map() };
  for (let run = 0; run < runs; run++) {
    const applied: string[] = [];
    const mutate = (bytes: Buffer, length = bytes.length) => {
      let mutated = bytes;
      for (let i = random.integer(1, 2); i > 0; i--) {
        applied.push(random.pick(random.next() < 0.5 ? structural : Object.keys(mutations)));
        if (mutated.length > 0)
          mutated = mutations[applied.at(-1)!]!(mutated, random, Math.min(length, mutated.length));
      }
      return Buffer.from(mutated);
    };
    const started = performance.now();
    await read(mutate).then(
      () => outcomes.accepted++,
      (error: unknown) => {
        const what = `seed ${seed}, run ${run} (${applied.join(', ')})`;
        assert.ok(error instanceof Qwen2Error, `${what}: ${(error as Error)?.stack ?? String(error)}`);
        assert.ok(expectedCodes.has(error.code), `${what}: ${error.code}, ${error.message}`);
        assert.ok(error.message.length < 4000, `${what}: a message of ${error.message.length} characters`);
        outcomes.refused++;
        outcomes.codes.set(error.code, (outcomes.codes.get(error.code) ?? 0) + 1);
      },
    );
    const took = performance.now() - started;
    assert.ok(took < limitMilliseconds, `seed ${seed}, run ${run} (${applied.join(', ')}) took ${Math.round(took)} ms`);
  }
  const codes = [...outcomes.codes].map(([code, count]) => `${count} ${code}`).join(', ');
  console.log(`        ${outcomes.accepted} accepted, ${outcomes.refused} refused: ${codes}`);
  assert.ok(outcomes.accepted > 0 && outcomes.refused > 0, 'both outcomes are met');
}

describe('damaged checkpoints, at random', () => {
  after(removeFolders);

  it('headers of safetensors', async () => {
    const path = join(await writeFolder({}), 'model.safetensors');
    const whole = safetensors(modelTensors(tinyConfig));
    const headerEnd = 8 + Number(whole.readBigUInt64LE());
    let rightLength = false;
    await fuzz(1, 2000, async (mutate) => {
      const mutated = mutate(whole, headerEnd);
      rightLength = !rightLength;
      await writeFile(path, rightLength ? withRightLength(mutated, whole) : mutated);
      const entries = [...(await readSafetensorsHeader(path)).values()];
      for (const { offset, byteLength } of entries) assert.ok(offset >= 8 && offset + byteLength <= mutated.length);
    });
  });

  const generationConfig = {
    do_sample: true,
    temperature: 0.7,
    top_p: 0.8,
    top_k: 20,
    min_p: 0,
    eos_token_id: [126, 127],
  };
  const configs: Record<string, object> = {
    'config.json': {
      ...tinyConfig,
      head_dim: 32,
      rope_scaling: { type: 'yarn', factor: 4.0, original_max_position_embeddings: 128, beta_fast: 32, beta_slow: 1 },
      use_sliding_window: true,
      sliding_window: 16,
      max_window_layers: 1,
      layer_types: ['full_attention', 'sliding_attention'],
      torch_dtype: 'bfloat16',
    },
    'generation_config.json': generationConfig,
  };
  for (const [name, json] of Object.entries(configs))
    it(name, async () => {
      const folder = await writeFolder({ ...smallCheckpoint(tinyConfig), ...configs });
      const whole = Buffer.from(JSON.stringify(json, null, 2));
      await fuzz(2, 1200, async (mutate) => {
        await writeFile(join(folder, name), mutate(whole));
        const { config, generationConfig } = await openCheckpoint(folder);
        assert.ok(config.rope.inverseFrequencies.every((frequency) => frequency >= 0 && frequency <= 1));
        assert.equal(config.slidingWindows.length, config.numHiddenLayers);
        assert.ok(generationConfig.topP > 0 && generationConfig.topP <= 1);
      });
    });

  it('index of shards', async () => {
    const names = Object.keys(modelTensors(tinyConfig));
    const shardOf = (i: number) => `model-0000${(i % 3) + 1}-of-00003.safetensors`;
    const tensors = Object.entries(modelTensors(tinyConfig));
    const shards = [0, 1, 2].map((shard) => {
      const own = tensors.filter((_, i) => i % 3 === shard);
      return [shardOf(shard), safetensors(Object.fromEntries(own))] as const;
    });
    const folder = await writeFolder({ 'config.json': tinyConfig, ...Object.fromEntries(shards) });
    const index = {
      metadata: { total_size: 1 },
      weight_map: Object.fromEntries(names.map((name, i) => [name, shardOf(i)])),
    };
    const whole = Buffer.from(JSON.stringify(index, null, 2));
    await fuzz(3, 1200, async (mutate) => {
      await writeFile(join(folder, 'model.safetensors.index.json'), mutate(whole));
      const checkpoint = await openCheckpoint(folder);
      for (const { path } of checkpoint.tensors.values()) assert.ok(path.startsWith(join(folder, 'model-')), path);
    });
  });

  it('whole checkpoints, loaded onto a device', async () => {
    const folder = await writeFolder(smallCheckpoint(tinyConfig));
    const weightsFile = safetensors(modelTensors(tinyConfig));
    const configFile = Buffer.from(JSON.stringify(tinyConfig));
    const headerEnd = 8 + Number(weightsFile.readBigUInt64LE());
    const device = Device.open('cpu');
    const stream = device.createStream();
    let damagesConfig = false;
    await fuzz(4, 400, async (mutate) => {
      damagesConfig = !damagesConfig;
      const weights = damagesConfig ? weightsFile : withRightLength(mutate(weightsFile, headerEnd), weightsFile);
      await writeFile(join(folder, 'model.safetensors'), weights);
      await writeFile(join(folder, 'config.json'), damagesConfig ? mutate(configFile) : configFile);
      const loaded = await loadWeights(await openCheckpoint(folder), device, stream);
      await loaded.dispose();
    });
    assert.equal(device.describe().allocatedBytes, 0, 'memory of all loads is returned');
    stream.dispose();
    device.dispose();
  });
});
