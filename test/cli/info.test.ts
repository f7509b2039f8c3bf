import assert from 'node:assert/strict';
import { inspectCheckpoint, listDevices } from '../../lib/index.js';
import { demoFolder as demo, fixtureFolder } from '../support/checkpoints.js';
import { qwen2 } from '../support/cli.js';

const withoutTokenizer = fixtureFolder('qwen2-gqa');

/** Memory moves between two calls. */
const withoutMemory = <T extends { freeBytes?: number }>(devices: readonly T[]) =>
  devices.map(({ freeBytes: _, ...rest }) => rest);

describe('qwen2 info', () => {
  it('shows every device, and of one that is unusable the reason', async () => {
    const { code, stdout, stderr } = await qwen2(['info']);
    assert.deepEqual([code, stderr], [0, '']);
    const lines = stdout.trimEnd().split('\n');
    const devices = await listDevices();
    assert.equal(lines.length, devices.length);
    for (const [i, { name, available, description }] of devices.entries()) {
      assert.ok(lines[i]!.startsWith(name) && lines[i]!.includes(description), lines[i]);
      assert.equal(lines[i]!.includes('unusable: '), !available);
      assert.equal(/; [\d.]+ [MG]B of [\d.]+ [MG]B free$/.test(lines[i]!), available);
    }
  });

  it('shows what a folder holds and what of it fits where', async () => {
    const { code, stdout, stderr } = await qwen2(['info', demo]);
    assert.deepEqual([code, stderr], [0, '']);
    for (const line of [
      demo,
      'layers     4',
      'width      256, intermediate 512, 4 heads of 64, 2 for keys and values',
      'vocabulary 2048, tied embeddings',
      'parameters 2.9 million, 5.8 MB in files as bfloat16',
      'context    2048 tokens',
      'tokenizer  yes',
    ])
      assert.ok(stdout.includes(`\n${line}\n`), `"${line}" is missing in:\n${stdout}`);
    assert.match(stdout, /\non cpu +weights 5\.8 MB; the rest holds keys and values of \d+ tokens\n/);
    assert.match((await qwen2(['info', withoutTokenizer])).stdout, /\ntokenizer +none: works on token ids\n/);
  });

  it('--json prints one object: the devices and, with a folder, the checkpoint', async () => {
    const alone = JSON.parse((await qwen2(['info', '--json'])).stdout);
    assert.deepEqual(Object.keys(alone), ['devices']);
    assert.deepEqual(withoutMemory(alone.devices), withoutMemory(await listDevices()));

    const { devices, checkpoint } = JSON.parse((await qwen2(['info', demo, '--json'])).stdout);
    const expected = await inspectCheckpoint(demo);
    assert.deepEqual(withoutMemory(devices), withoutMemory(await listDevices()));
    assert.deepEqual(
      [checkpoint.parameters, checkpoint.fileBytes, checkpoint.hasTokenizer],
      [expected.parameters, expected.fileBytes, true],
    );
    assert.deepEqual(
      checkpoint.devices.map(({ name, weightBytes }: { name: string; weightBytes: number }) => [name, weightBytes]),
      expected.devices.map(({ name, weightBytes }) => [name, weightBytes]),
    );
    const { rope, slidingWindows, ...config } = checkpoint.config;
    const { rope: expectedRope, slidingWindows: expectedWindows, ...expectedConfig } = expected.config;
    assert.deepEqual(config, JSON.parse(JSON.stringify(expectedConfig)));
    assert.deepEqual(rope.inverseFrequencies, [...expectedRope.inverseFrequencies]);
    assert.deepEqual(slidingWindows, Array(expectedWindows.length).fill(null));
  });

  for (const [args, code, says] of [
    [['/nowhere'], 1, /no folder \/nowhere .*\[not_found\]/],
    [['lib'], 1, /lib has no config.json.*\[not_found\]/],
    [[demo, demo], 2, /too many arguments/],
    [['--frobnicate'], 2, /unknown option/],
  ] as const)
    it(`${args.join(' ').replaceAll(demo, 'DEMO')} exits with ${code}`, async () => {
      const outcome = await qwen2(['info', ...args]);
      assert.deepEqual([outcome.code, outcome.stdout], [code, '']);
      assert.match(outcome.stderr, says);
    });
});
