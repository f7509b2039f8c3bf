import assert from 'node:assert/strict';
import { demoFolder } from '../support/checkpoints.js';
import { tokenizerOfSuite } from '../support/tokenizers.js';

/** A time that grows with the length takes 4 times as long for the 4-fold, one with its square 16 times. */
const growth = 9;

describe('the time to encode', () => {
  const tokenizer = tokenizerOfSuite(demoFolder);

  const texts: Record<string, (bytes: number) => string> = {
    'one letter': (bytes) => 'a'.repeat(bytes),
    'letters that merge in many ways': (bytes) => 'theresherethanathere'.repeat(bytes / 20),
    spaces: (bytes) => ' '.repeat(bytes),
    'spaces before a word': (bytes) => `${' '.repeat(bytes)}x`,
    'line ends': (bytes) => ' \n'.repeat(bytes / 2),
    'one combining mark': (bytes) => `e${'\u0301'.repeat(bytes / 2)}`,
    'combining marks in disorder': (bytes) => `e${'\u0301\u0327\u0334\u0323'.repeat(bytes / 8)}`,
    'parts of control tokens': (bytes) => '<|im_'.repeat(bytes / 5),
  };

  for (const [name, text] of Object.entries(texts))
    for (const call of ['encode', 'encodeChat'] as const)
      it(`${name} grows with their number in ${call}`, async function () {
        // Other processes may slow the longer run down and not the shorter ones.
        this.retries(3);
        const encode = (text: string) =>
          call === 'encode'
            ? tokenizer().encode(text)
            : tokenizer().encodeChat([{ role: 'user', content: `a${text}b` }]);
        const fastest = async (runs: number, text: string) => {
          let fastest = Number.POSITIVE_INFINITY;
          for (let i = 0; i < runs; i++) {
            const started = performance.now();
            await encode(text);
            fastest = Math.min(fastest, performance.now() - started);
          }
          return fastest;
        };
        const bytes = call === 'encode' ? 2 ** 21 : 2 ** 19;
        const quarter = await fastest(3, text(bytes / 4));
        const whole = await fastest(1, text(bytes));
        assert.ok(whole < growth * quarter, `${quarter} ms for ${bytes / 4} bytes, ${whole} ms for ${bytes}`);
      });
});
