import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { packageFolder } from '../../lib/native/addon.js';
import { loadTokenizer, type Tokenizer } from '../../lib/tokenizer/tokenizer.js';
import { demoFolder } from '../support/checkpoints.js';
import { assertQwen2Error, assertRejectsQwen2 } from '../support/errors.js';
import { watchEventLoop } from '../support/eventLoop.js';
import { Random } from '../support/random.js';
import { randomText } from '../support/randomText.js';

const library = new URL('../../lib/tokenizer/tokenizer.js', import.meta.url).href;

/** 5 × 2²⁰ characters of a book. */
async function longText(): Promise<string> {
  const book = await readFile(join(packageFolder, 'models', 'demo', 'sherlock-holmes.txt'), 'utf8');
  return book.repeat(10).slice(0, 5 << 20);
}

function assertAborted(call: Promise<unknown>, reason: unknown): Promise<void> {
  return assert.rejects(call, (error: unknown) => {
    assertQwen2Error(error, 'aborted', ['AbortSignal']);
    assert.equal((error as Error).cause, reason);
    return true;
  });
}

describe("a tokenizer's thread", () => {
  let text: string;
  let tokenizer: Tokenizer;
  before(async () => {
    text = await longText();
  });
  beforeEach(async () => {
    tokenizer = await loadTokenizer(demoFolder);
  });
  afterEach(() => tokenizer.dispose());

  it('leaves the event loop free while 5 MB are encoded', async function () {
    // The array of a million ids is new memory at once, which takes several times as long on a machine that is short of it.
    this.retries(3);
    const stop = watchEventLoop();
    const ids = await tokenizer.encode(text);
    const { turns, p99, max } = stop();
    assert.ok(ids.length > 1e6 && turns > 20);
    console.log(`        the event loop stands still for ${p99.toFixed(1)} ms (p99), ${max.toFixed(1)} ms at most`);
    assert.ok(max < 50, `the event loop stood still for ${max} ms`);
  });

  it('answers many concurrent calls in their order, each with its own ids', async () => {
    const random = new Random(3);
    const texts = Array.from({ length: 300 }, () => randomText(random, random.integer(0, 30)));
    const alone: number[][] = [];
    for (const text of texts) alone.push(await tokenizer.encode(text));
    const order: number[] = [];
    const together = await Promise.all(
      texts.map(async (text, i) => {
        const ids = await tokenizer.encode(text);
        order.push(i);
        return ids;
      }),
    );
    assert.deepEqual(together, alone);
    assert.deepEqual(order, [...texts.keys()]);
  });

  it('keeps the parts of long texts apart', async () => {
    const texts = ['x ', 'y ', '😀 ', 'z'].map((word) => word.repeat(900_000));
    const encoded = await Promise.all(texts.map((text) => tokenizer.encode(text)));
    for (const [i, ids] of encoded.entries()) assert.equal(tokenizer.decode(ids), texts[i]);
  });

  describe('and an AbortSignal', () => {
    it('that has fired already starts nothing', async () => {
      const signal = AbortSignal.abort('too late');
      for (const call of [
        () => tokenizer.encode('text', { signal }),
        () => tokenizer.encodeChat([{ role: 'user', content: 'text' }], { signal }),
        () => loadTokenizer(demoFolder, { signal }),
      ]) {
        await assertAborted(call(), 'too late');
      }
    });

    for (const [name, encode] of [
      ['encode', (signal?: AbortSignal) => tokenizer.encode(text, { signal })],
      ['encodeChat', (signal?: AbortSignal) => tokenizer.encodeChat([{ role: 'user', content: text }], { signal })],
    ] as const)
      it(`stops a long ${name}, so that the next call is answered soon`, async function () {
        this.retries(3);
        const started = performance.now();
        await encode();
        const whole = performance.now() - started;

        const controller = new AbortController();
        const reason = new Error('the user left');
        const aborted = assertAborted(encode(controller.signal), reason);
        await new Promise((resolve) => setTimeout(resolve, whole / 10));
        const abortedAt = performance.now();
        controller.abort(reason);
        await aborted;
        await tokenizer.encode('next');
        const rest = performance.now() - abortedAt;
        assert.ok(rest < whole / 2, `after ${rest} ms of ${whole}`);
      });

    it('rejects a call at once that waits behind others', async () => {
      const controller = new AbortController();
      const order: string[] = [];
      const first = tokenizer.encode(text.slice(0, 1 << 16)).then(() => order.push('first'));
      const second = tokenizer.encode('second', { signal: controller.signal }).catch((error: unknown) => {
        assertQwen2Error(error, 'aborted');
        order.push('second');
      });
      const third = tokenizer.encode('third').then(() => order.push('third'));
      controller.abort();
      await Promise.all([first, second, third]);
      assert.deepEqual(order, ['second', 'first', 'third']);
    });

    it('that fires after the answer changes nothing', async () => {
      const controller = new AbortController();
      const ids = await tokenizer.encode('text', { signal: controller.signal });
      controller.abort();
      assert.deepEqual(await tokenizer.encode('text'), ids);
    });

    it('ends loading', async () => {
      const controller = new AbortController();
      const loading = loadTokenizer(demoFolder, { signal: controller.signal });
      controller.abort();
      await assertRejectsQwen2(loading, 'aborted', 'Loading');
    });
  });

  describe('once disposed', () => {
    it('rejects what it has not answered', async () => {
      const calls = [
        tokenizer.encode(text),
        tokenizer.encode('waiting'),
        tokenizer.encodeChat([{ role: 'user', content: 'waiting' }]),
        tokenizer.applyChatTemplate([{ role: 'user', content: 'waiting' }]),
      ].map((call) => assertRejectsQwen2(call, 'disposed', 'disposed', 'load it again'));
      await tokenizer.dispose();
      await Promise.all(calls);
    });

    it('answers nothing more, but decodes, which takes no thread', async () => {
      const ids = await tokenizer.encode('text');
      await tokenizer[Symbol.asyncDispose]();
      await assertRejectsQwen2(tokenizer.encode('text'), 'disposed');
      await assertRejectsQwen2(tokenizer.encodeChat([{ role: 'user', content: 'text' }]), 'disposed');
      assert.equal(tokenizer.decode(ids), 'text');
    });

    it('may be disposed again', async () => {
      await Promise.all([tokenizer.dispose(), tokenizer.dispose()]);
      await tokenizer.dispose();
    });
  });

  it('works in a worker thread', async () => {
    const script = `
      const { parentPort, workerData } = require('node:worker_threads');
      import(workerData.library).then(async ({ loadTokenizer }) => {
        const tokenizer = await loadTokenizer(workerData.folder);
        parentPort.postMessage(await tokenizer.encode('in a worker'));
      });`;
    const worker = new Worker(script, { eval: true, workerData: { library, folder: demoFolder } });
    const [ids, exitCode] = await Promise.all([
      new Promise((resolve) => worker.once('message', resolve)),
      new Promise((resolve) => worker.once('exit', resolve)),
    ]);
    assert.deepEqual(ids, await tokenizer.encode('in a worker'));
    assert.equal(exitCode, 0);
  });

  it('keeps the process for as long as an answer is awaited, and no longer', async () => {
    // Nothing is disposed: the process has to end by itself. An aborted call must not keep it either.
    const script = `
      import { loadTokenizer } from ${JSON.stringify(library)};
      const tokenizer = await loadTokenizer(${JSON.stringify(demoFolder)});
      const controller = new AbortController();
      tokenizer.encode('never', { signal: controller.signal }).catch(({ code }) => console.log(code));
      controller.abort();
      tokenizer.encode('word '.repeat(300_000)).then((ids) => console.log(tokenizer.decode(ids).length));`;
    const started = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script], {
      timeout: 30_000,
    });
    assert.deepEqual(started, { stdout: 'aborted\n1500000\n', stderr: '' });
  });
});
