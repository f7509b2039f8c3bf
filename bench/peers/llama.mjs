// Measures node-llama-cpp on the CPU: node llama.mjs <file.gguf> <prompt tokens> <new tokens> <sequences> <threads>
// The last line is one JSON object.

import { getLlama, LlamaLogLevel } from 'node-llama-cpp';

const [path, promptTokens, newTokens, sequences, threads] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const llama = await getLlama({ gpu: false, maxThreads: threads, build: 'never', logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
const context = await model.createContext({
  contextSize: promptTokens + newTokens + 8,
  sequences,
  threads,
  batchSize: 512,
});
const vocabulary = 100_000;
const all = Array.from({ length: sequences }, () => context.getSequence());

/** Prefill: from nothing to every sequence's first token. Decode: from there to the last token of all. */
async function round(seed) {
  const started = performance.now();
  let firsts = 0;
  let prefilled = started;
  let decoded = 0;
  await Promise.all(
    all.map(async (sequence, index) => {
      await sequence.clearHistory();
      const prompt = Array.from({ length: promptTokens }, (_, i) => (7919 * (seed + index) + 104_729 * i) % vocabulary);
      let count = 0;
      // No sampling to speak of, and no end token: as many tokens as asked for.
      for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
        if (++count === 1 && ++firsts === sequences) prefilled = performance.now();
        if (count === newTokens) break;
      }
      decoded += count - 1;
    }),
  );
  const ended = performance.now();
  return {
    prefillTokensPerSecond: (1000 * sequences * promptTokens) / (prefilled - started),
    decodeTokensPerSecond: (1000 * decoded) / (ended - prefilled),
  };
}

await round(1);
console.log(JSON.stringify(await round(2)));
process.exit(0);
