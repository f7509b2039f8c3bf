// What rounding costs the demo model: perplexity on passages of the book that it knows, and its greedy text, for each way of
// rounding its weights, and its keys and values. Prints tables in Markdown.
//
//   npm run build && node scripts/rounding-quality.mjs

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadModel, quantizeCheckpoint } from '../dist/lib/index.js';

const demo = join(dirname(dirname(fileURLToPath(import.meta.url))), 'models', 'demo');
const source = join(demo, 'checkpoint');
const book = await readFile(join(demo, 'sherlock-holmes.txt'), 'utf8');
/** Where passages of 512 tokens begin, in characters. */
const starts = Array.from({ length: 28 }, (_, i) => 10_000 + 20_000 * i);
const passageTokens = 512;
const prompt = 'To Sherlock Holmes she is always';

const ofWeights = [
  { name: 'bf16, as it is' },
  { name: '`--clip-steps 0`', options: { clipSteps: 0 } },
  { name: 'default', options: {} },
  { name: '`--calibration`, the book', options: { calibration: book } },
];
const ofCaches = ['bf16', 'int8', 'fp8'];

async function measure(folder, options) {
  const model = await loadModel(folder, { device: 'cpu', exact: true, ...options });
  try {
    let [sum, count] = [0, 0];
    for (const start of starts) {
      const encoded = await model.tokenizer.encode(book.slice(start, start + 8 * passageTokens));
      const tokens = encoded.slice(0, passageTokens);
      sum += (await model.score({ tokens })).sum;
      count += tokens.length - 1;
    }
    let text = '';
    for await (const piece of model.generate(prompt, { maxTokens: 48, temperature: 0 })) text += piece.text;
    return { perplexity: Math.exp(-sum / count), text };
  } finally {
    await model.dispose();
  }
}

function printHead(title) {
  console.log(`\n| \`${title}\` | perplexity | greedy, after "${prompt}" |\n|---|---|---|`);
}

function printRow(name, { perplexity, text }) {
  console.log(`| ${name} | ${perplexity.toFixed(3)} | ${text.replaceAll(/\s+/g, ' ').trim()} |`);
}

const scratch = await mkdtemp(join(tmpdir(), 'qwen2-quality-'));
try {
  printHead('qwen2 quantize');
  for (const [i, { name, options }] of ofWeights.entries()) {
    const folder = options ? join(scratch, String(i)) : source;
    if (options) await quantizeCheckpoint(source, folder, { device: 'cpu', ...options });
    printRow(name, await measure(folder));
  }
  printHead('--kv-cache-dtype');
  for (const dtype of ofCaches) printRow(dtype, await measure(source, { kvCache: { dtype } }));
} finally {
  await rm(scratch, { recursive: true });
}
