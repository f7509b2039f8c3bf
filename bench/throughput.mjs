// Tokens a second against the number of sequences: qwen2-node beside node-llama-cpp on the CPU, in one run. The same shape
// with random weights in 4 bits, prompts of the same length, the same threads.
//
//   npm install --prefix bench/peers      # once; without it, this package alone
//   node bench/throughput.mjs [--shape qwen2-0.5b] [--sequences 1,2,4,8,16,32,64] [--pairs 3] [--prompt 16] [--new 64]
//     [--threads 2] [--output results.json]
//
// Both are measured in turns, who is first changing from pair to pair; medians, and medians of the pairs' ratios. The last
// line is one JSON object, with every run.

import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { qwen2Shapes } from '../dist/lib/checkpoint/shapes.js';
import { writeRandomGguf } from './peers/gguf.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const peerScript = join(here, 'peers', 'llama.mjs');
const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'qwen2-0.5b' },
    sequences: { type: 'string', default: '1,2,4,8,16,32,64' },
    prompt: { type: 'string', default: '16' },
    new: { type: 'string', default: '64' },
    pairs: { type: 'string', default: '3' },
    threads: { type: 'string', default: `${availableParallelism()}` },
    output: { type: 'string' },
  },
});
const { shape, output } = values;
if (!Object.hasOwn(qwen2Shapes, shape)) exit(`--shape is one of ${Object.keys(qwen2Shapes).join(', ')}; got ${shape}`);
const sequenceCounts = values.sequences.split(',').map((text) => wholeNumber('sequences', text, 1));
const prompt = wholeNumber('prompt', values.prompt, 1);
const newTokens = wholeNumber('new', values.new, 2);
const pairs = wholeNumber('pairs', values.pairs, 1);
const threads = wholeNumber('threads', values.threads, 1);

const peer = peerVersion();
const gguf = join(tmpdir(), `${shape}-random-q4_0.gguf`);
if (peer !== undefined && !existsSync(gguf)) await writeRandomGguf(gguf, qwen2Shapes[shape]);

const report = { shape, prompt, newTokens, threads, pairs, cpu: cpus()[0].model, peer, rows: [] };
console.log(`${shape} in int4 on ${report.cpu}: prompts of ${prompt}, ${newTokens} new tokens, ${threads} threads`);
if (peer === undefined) console.log('node-llama-cpp is not there: npm install --prefix bench/peers');
console.log(
  '\n| sequences | decode tokens/s | node-llama-cpp | ratio | prefill tokens/s | node-llama-cpp | ratio | of the measured bandwidth |' +
    '\n|---|---|---|---|---|---|---|---|',
);
for (const sequences of sequenceCounts) {
  const row = measure(sequences);
  report.rows.push(row);
  console.log(
    `| ${sequences} | ${cells(row, 'decodeTokensPerSecond')} | ${cells(row, 'prefillTokensPerSecond')} | ` +
      `${(100 * row.decodeBandwidthFraction).toFixed(0)}% |`,
  );
  // What was measured stays, if the rest is cut off.
  if (output !== undefined) writeFileSync(output, JSON.stringify(report, undefined, 1));
}
console.log(`\n${plot(report.rows)}\n`);
console.log(JSON.stringify(report));

/** Runs of both with so many sequences, and what they come to. */
function measure(sequences) {
  const runs = { ours: [], theirs: [] };
  for (let pair = 0; pair < pairs; pair++) {
    const turn = [() => runs.ours.push(runOurs(sequences)), () => runs.theirs.push(runPeer(sequences))];
    if (peer === undefined) turn.pop();
    for (const run of pair % 2 === 0 ? turn : turn.toReversed()) run();
  }
  const of = (which, figure) => (runs[which].length > 0 ? median(runs[which].map((run) => run[figure])) : undefined);
  const compared = (figure) => ({
    ours: of('ours', figure),
    theirs: of('theirs', figure),
    ratio: peer && median(runs.ours.map((our, pair) => our[figure] / runs.theirs[pair][figure])),
  });
  return {
    sequences,
    decodeTokensPerSecond: compared('decodeTokensPerSecond'),
    prefillTokensPerSecond: compared('prefillTokensPerSecond'),
    decodeBandwidthFraction: of('ours', 'decodeBandwidthFraction'),
    runs,
  };
}

function runOurs(sequences) {
  return lastLine([
    join(here, '..', 'dist', 'lib', 'cli', 'main.js'),
    ...['bench', '--device', 'cpu', '--threads', `${threads}`, '--shape', shape, '--quantize', 'int4'],
    ...['--lm-head', 'int8', '-p', `${prompt}`, '-n', `${newTokens}`, '-b', `${sequences}`, '-r', '1'],
  ]);
}

function runPeer(sequences) {
  return lastLine([peerScript, gguf, `${prompt}`, `${newTokens}`, `${sequences}`, `${threads}`]);
}

function lastLine(args) {
  const printed = execFileSync(process.execPath, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
  return JSON.parse(printed.trim().split('\n').at(-1));
}

/** undefined if the peer is not installed. */
function peerVersion() {
  try {
    createRequire(peerScript).resolve('node-llama-cpp');
  } catch (error) {
    if (error.code === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  }
  const { dependencies } = createRequire(peerScript)('./package.json');
  return `node-llama-cpp ${dependencies['node-llama-cpp']}`;
}

function cells(row, figure) {
  const { ours, theirs, ratio } = row[figure];
  return `${ours.toFixed(1)} | ${theirs?.toFixed(1) ?? ''} | ${ratio?.toFixed(2) ?? ''}`;
}

/** Decoded tokens a second as bars: # ours, o the peer's. */
function plot(rows) {
  const decoded = rows.flatMap(({ decodeTokensPerSecond: { ours, theirs } }) => [ours, theirs ?? 0]);
  const bar = (mark, value) =>
    `${mark.repeat(Math.max(1, Math.round((60 * value) / Math.max(...decoded))))} ${value.toFixed(0)}`;
  return rows
    .flatMap(({ sequences, decodeTokensPerSecond: { ours, theirs } }) => [
      `${String(sequences).padStart(4)} ${bar('#', ours)}`,
      ...(theirs === undefined ? [] : [`     ${bar('o', theirs)}`]),
    ])
    .join('\n');
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

function wholeNumber(name, text, least) {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < least)
    exit(`--${name} takes whole numbers from ${least} on; got '${text}'`);
  return value;
}

function exit(message) {
  console.error(message);
  process.exit(1);
}
