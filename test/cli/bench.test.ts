import assert from 'node:assert/strict';
import { truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { listDevices } from '../../lib/index.js';
import { sourceTensors } from '../../lib/model/names.js';
import {
  type HeaderEntry,
  rawSafetensors,
  removeFolders,
  smallConfig,
  writeFolder,
} from '../support/checkpointFiles.js';
import { demoFolder as demo, fixtureFolder } from '../support/checkpoints.js';
import { keys, qwen2, Terminal } from '../support/cli.js';

const withoutTokenizer = fixtureFolder('qwen2-gqa');

const tiny = join(withoutTokenizer, 'config.json');
const brief = ['-p', '8', '-n', '4', '-r', '1'];

describe('qwen2 bench', () => {
  after(removeFolders);

  for (const [title, source, options] of [
    ['random weights of a config.json', ['--shape', tiny], ['-b', '3']],
    ['a checkpoint', [demo], []],
    ['int4 weights', [demo], ['-d', 'cpu', '--quantize', 'int4', '--lm-head', 'int8']],
    ['int4 weights, exact', [demo], ['-d', 'cpu', '--quantize', 'int4', '--exact']],
    ['one thread without SIMD', [demo], ['-d', 'cpu', '--threads', '1', '--simd', 'scalar']],
  ] as const)
    it(`${title}: a summary, and one JSON object in the last line`, async () => {
      const { code, stdout, stderr } = await qwen2(['bench', ...source, ...brief, ...options]);
      assert.deepEqual([code, stderr], [0, '']);
      const lines = stdout.trimEnd().split('\n');
      const unit = title === 'int4 weights' ? 'GOP/s of 8 bits' : 'GFLOP/s';
      assert.match(lines[0]!, /^prefill [\d.]+ tokens\/s, \d+% of the measured \d+ (GFLOP\/s|GOP\/s of 8 bits)$/);
      assert.ok(lines[0]!.endsWith(unit), lines[0]);
      assert.match(lines[1]!, /^decode +[\d.]+ tokens\/s, \d+% of the measured [\d.]+ GB\/s$/);

      const { device, parameters, promptTokens, newTokens, sequences, ...measured } = JSON.parse(lines.at(-1)!);
      const wanted = options[0] === '-b' ? 3 : 1;
      assert.deepEqual([promptTokens, newTokens, sequences], [8, 4, wanted]);
      assert.ok((await listDevices()).some(({ name, available }) => name === device && available));
      assert.ok(Number.isSafeInteger(parameters) && parameters > 1e6);
      assert.deepEqual(Object.keys(measured).sort(), [
        'decodeBandwidthFraction',
        'decodeTokensPerSecond',
        'loadSeconds',
        'measuredBytesPerSecond',
        'measuredOperationsPerSecond',
        'peakMemoryBytes',
        'prefillOperationsFraction',
        'prefillTokensPerSecond',
      ]);
      for (const [name, value] of Object.entries(measured))
        assert.ok(typeof value === 'number' && Number.isFinite(value) && value > 0, `${name} is ${String(value)}`);
      assert.ok(measured.peakMemoryBytes > 2 * parameters, 'bf16 weights are in memory');
    });

  const wrong: [args: string[], code: number, says: RegExp][] = [
    [['-p', '0'], 2, /--prompt-tokens.*\[invalid_argument\]/],
    [['-n', '1'], 2, /--new-tokens 2 or more/],
    [['-b', '0'], 2, /--sequences/],
    [['-r', '0'], 2, /--repeat/],
    [['-p', 'many'], 2, /--prompt-tokens.*'many'.*whole number/],
    [['--shape', 'qwen2-8b'], 2, /no shape 'qwen2-8b'; known are qwen2-0.5b/],
    [['-d', 'tpu', '--shape', tiny], 2, /'tpu'/],
    [['--shape', '/nowhere.json'], 1, /--shape \/nowhere.json can't be read.*\[not_found\]/],
    [['--shape', 'package.json'], 1, /model_type.*\[invalid_checkpoint\]/],
    [['/nowhere'], 1, /\/nowhere.*\[not_found\]/],
  ];
  for (const [args, code, says] of wrong)
    it(`${args.join(' ').replace(tiny, 'TINY')} exits with ${code}`, async () => {
      const outcome = await qwen2(['bench', ...args]);
      assert.deepEqual([outcome.code, outcome.stdout], [code, '']);
      assert.match(outcome.stderr, says);
      assert.doesNotMatch(outcome.stderr, / {4}at /);
    });

  it('a config.json that is not JSON is said to be none', async () => {
    const folder = await writeFolder({ 'config.json': '{ "model_type": ' });
    const { code, stderr } = await qwen2(['bench', '--shape', join(folder, 'config.json')]);
    assert.equal(code, 1);
    assert.match(stderr, /is not JSON.*\[invalid_checkpoint\]/);
  });

  it('Ctrl-C while a model is loaded ends with 130', async () => {
    const terminal = new Terminal(['bench', await largeCheckpoint()]);
    try {
      await terminal.waitFor(/loading/);
      terminal.type(keys.ctrlC);
      await terminal.waitFor(/qwen2: interrupted/);
      assert.equal(await terminal.exitCode(), 130);
    } finally {
      terminal.close();
    }
  });
});

/** 0.5 GB of zeros, which take no room on the disk and longer to load than a key takes. */
async function largeCheckpoint(): Promise<string> {
  const large = { hidden_size: 1024, intermediate_size: 4096, num_hidden_layers: 16, max_position_embeddings: 2048 };
  const config = { ...smallConfig, ...large };
  const header: Record<string, HeaderEntry> = {};
  let end = 0;
  for (const { name, shape } of sourceTensors(parseConfig(config, 'config'))) {
    const begin = end;
    end += 2 * shape.reduce((product, n) => product * n, 1);
    header[name] = { dtype: 'BF16', shape, data_offsets: [begin, end] };
  }
  const file = rawSafetensors(JSON.stringify(header));
  const folder = await writeFolder({ 'config.json': config, 'model.safetensors': file });
  await truncate(join(folder, 'model.safetensors'), file.length + end);
  return folder;
}
