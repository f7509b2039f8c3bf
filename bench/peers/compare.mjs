// qwen2-node beside node-llama-cpp: the same shape, random weights, the same threads, alternating in one run.
//
//   npm ci --prefix bench/peers && node bench/peers/compare.mjs [--shape qwen2-0.5b] [--sequences 1,8] [--pairs 3]
//
// Ratios are medians of pairs, each measured side by side.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { qwen2Shapes } from '../../dist/lib/checkpoint/shapes.js';
import { writeRandomGguf } from './gguf.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    shape: { type: 'string', default: 'qwen2-0.5b' },
    sequences: { type: 'string', default: '1' },
    prompt: { type: 'string', default: '16' },
    new: { type: 'string', default: '64' },
    pairs: { type: 'string', default: '3' },
    threads: { type: 'string', default: '2' },
  },
});

const file = join(tmpdir(), `${options.shape}-random-q4_0.gguf`);
if (!existsSync(file)) await writeRandomGguf(file, qwen2Shapes[options.shape]);

function lastLine(args) {
  const output = execFileSync(process.execPath, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return JSON.parse(output.trim().split('\n').at(-1));
}

const ours = (sequences) =>
  lastLine([
    join(here, '..', '..', 'dist', 'lib', 'cli', 'main.js'),
    ...['bench', '--device', 'cpu', '--threads', options.threads, '--shape', options.shape],
    ...['--quantize', 'int4', '--lm-head', 'int8'],
    ...['-p', options.prompt, '-n', options.new, '-b', String(sequences), '-r', '1'],
  ]);
const llama = (sequences) =>
  lastLine([join(here, 'llama.mjs'), file, options.prompt, options.new, String(sequences), options.threads]);

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const figures = ['prefillTokensPerSecond', 'decodeTokensPerSecond'];

console.log(`${options.shape}, prompts of ${options.prompt}, ${options.new} new tokens, ${options.threads} threads\n`);
console.log('| sequences | tokens/s | qwen2-node | node-llama-cpp | ratio | of the measured bandwidth |');
console.log('|---|---|---|---|---|---|');
for (const sequences of options.sequences.split(',').map(Number)) {
  const pairs = Array.from({ length: Number(options.pairs) }, () => [ours(sequences), llama(sequences)]);
  for (const figure of figures) {
    const of = (which) => median(pairs.map((pair) => pair[which][figure])).toFixed(1);
    const ratio = median(pairs.map(([our, their]) => our[figure] / their[figure])).toFixed(2);
    const bandwidth = figure.startsWith('decode')
      ? `${(100 * median(pairs.map(([our]) => our.decodeBandwidthFraction))).toFixed(0)}%`
      : '';
    console.log(
      `| ${sequences} | ${figure.replace('TokensPerSecond', '')} | ${of(0)} | ${of(1)} | ${ratio} | ${bandwidth} |`,
    );
  }
}
