import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { type Line, readLines, splitLines } from '../../lib/batch/lines.js';
import { assertRejectsQwen2 } from '../support/errors.js';

async function collect(lines: AsyncIterable<Line>): Promise<Line[]> {
  const all: Line[] = [];
  for await (const line of lines) all.push(line);
  return all;
}

describe('lines of a file', () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qwen2-lines-'));
  });
  after(() => rm(folder, { recursive: true }));

  it('are whole, wherever the file is cut into pieces', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.string({ unit: 'grapheme' })),
        fc.array(fc.nat(40)),
        fc.boolean(),
        async (given, cuts, ends) => {
          const texts = given.map((text) => text.replaceAll(/[\r\n]/g, ' '));
          while (!ends && texts.at(-1) === '') texts.pop();
          const bytes = Buffer.from(
            texts
              .map((text) => `${text}\n`)
              .join('')
              .slice(0, ends ? undefined : -1),
          );
          const pieces: Buffer[] = [];
          for (let at = 0, i = 0; at < bytes.length; i++) {
            const length = 1 + (cuts[i % Math.max(1, cuts.length)] ?? 1000);
            pieces.push(bytes.subarray(at, at + length));
            at += length;
          }
          const lines = await collect(
            splitLines(
              (async function* () {
                yield* pieces;
              })(),
            ),
          );
          assert.deepEqual(
            lines.map(({ text }) => text),
            texts,
          );
          assert.deepEqual(
            lines.map(({ number }) => number),
            texts.map((_, i) => i + 1),
          );
          for (const { end, complete } of lines) {
            assert.equal(bytes.subarray(0, end).at(-1) === 0x0a, complete);
            assert.ok(complete || end === bytes.length);
          }
        },
      ),
      { numRuns: 300, seed: 1 },
    ));

  it('are read from plain and from gzipped files', async () => {
    const text = 'one\r\ntwo\n\nfour';
    const expected = ['one', 'two', '', 'four'];
    for (const [name, bytes] of [
      ['plain', Buffer.from(text)],
      ['zipped', gzipSync(text)],
    ] as const) {
      const path = join(folder, name);
      await writeFile(path, bytes);
      assert.deepEqual(
        (await collect(readLines(path))).map((line) => line.text),
        expected,
        name,
      );
    }
    await writeFile(join(folder, 'empty'), '');
    assert.deepEqual(await collect(readLines(join(folder, 'empty'))), []);
  });

  it('of a file that is cut off within its compression end in an error', async () => {
    const path = join(folder, 'cut');
    const zipped = gzipSync('line\n'.repeat(10_000));
    await writeFile(path, zipped.subarray(0, zipped.length - 10));
    await assertRejectsQwen2(collect(readLines(path)), 'io_error', path);
  });

  it('of a file that is not there', () =>
    assertRejectsQwen2(collect(readLines(join(folder, 'none'))), 'not_found', 'There is no file'));

  it('of 10 MB without an end take time as their length does', async () => {
    const path = join(folder, 'long');
    await writeFile(path, 'x'.repeat(10_000_000));
    const started = performance.now();
    const [line] = await collect(splitLines(createReadStream(path)));
    assert.equal(line!.text.length, 10_000_000);
    assert.ok(performance.now() - started < 2000);
  });
});
