import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { type BatchFileProgress, loadModel, type Model, runBatchFile } from '../../lib/index.js';
import { demoFolder } from '../support/checkpoints.js';
import { qwen2, startQwen2 } from '../support/cli.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import { Random } from '../support/random.js';

const requestOf = (i: number) => ({
  id: `r${i}`,
  prompt: `It was ${i} in the morning`,
  maxTokens: 1 + (i % 30),
  temperature: 0,
});
const chatOf = (i: number) => ({
  custom_id: `c${i}`,
  method: 'POST',
  url: '/v1/chat/completions',
  body: {
    model: 'demo',
    messages: [{ role: 'user', content: `Hello ${i}` }],
    max_tokens: 4,
    logprobs: true,
    top_logprobs: 2,
  },
});
const jsonl = (values: readonly unknown[]) =>
  values.map((value) => `${typeof value === 'string' ? value : JSON.stringify(value)}\n`).join('');
const many = (count: number) => Array.from({ length: count }, (_, i) => requestOf(i));

describe('a batch of a file', () => {
  let model: Model;
  let folder = '';
  const at = (name: string) => join(folder, name);
  before(async () => {
    model = await loadModel(demoFolder, { device: 'cpu', contextLength: 128, cacheTokens: 4096, maxSequences: 16 });
  });
  after(() => model.dispose());
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qwen2-batch-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  const run = (options: object = {}): Promise<BatchFileProgress> =>
    runBatchFile(model, { input: at('in.jsonl'), output: at('out.jsonl'), ...options });
  // biome-ignore lint/suspicious/noExplicitAny: lines of JSON
  const resultsIn = async (name = 'out.jsonl'): Promise<any[]> =>
    (await readFile(at(name), 'utf8'))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));

  it('has a result for each request, as it gets it alone', async () => {
    await writeFile(at('in.jsonl'), jsonl(many(40)));
    const { finished, failed, skipped, invalid, total } = await run();
    assert.deepEqual([finished, failed, skipped, invalid, total], [40, 0, 0, 0, 40]);
    const results = await resultsIn();
    assert.equal(new Set(results.map(({ id }) => id)).size, 40);
    for (const { id, text, usage, finishReason } of results) {
      const { prompt, maxTokens } = requestOf(Number(id.slice(1)));
      const alone = await model.generate(prompt, { maxTokens, temperature: 0 }).result();
      assert.deepEqual([text, usage, finishReason], [alone.text, alone.usage, alone.finishReason]);
    }
    assert.ok(!existsSync(at('out.errors.jsonl')), 'no errors, no file of them');
  });

  it('answers as OpenAI does, chats and completions', async () => {
    const completion = {
      custom_id: 'p',
      method: 'POST',
      url: '/v1/completions',
      body: { prompt: 'It was', max_tokens: 3, temperature: 0, n: 2, logprobs: 1 },
    };
    await writeFile(at('in.jsonl'), jsonl([chatOf(1), completion]));
    await run();
    const results = new Map((await resultsIn()).map((line) => [line.custom_id, line]));
    const chat = results.get('c1')!;
    assert.deepEqual([chat.error, chat.response.status_code], [null, 200]);
    const { body } = chat.response;
    assert.deepEqual([body.object, body.model, body.choices.length], ['chat.completion', 'demo', 1]);
    const [choice] = body.choices;
    assert.deepEqual([choice.index, choice.message.role], [0, 'assistant']);
    assert.equal(choice.logprobs.content.map(({ token }: { token: string }) => token).join(''), choice.message.content);
    assert.ok(choice.logprobs.content.every(({ top_logprobs: top }: { top_logprobs: object[] }) => top.length === 2));
    assert.equal(body.usage.total_tokens, body.usage.prompt_tokens + body.usage.completion_tokens);
    const text = results.get('p')!.response.body;
    assert.deepEqual([text.object, text.choices.length, text.choices[1].index], ['text_completion', 2, 1]);
    assert.deepEqual(text.choices[0].logprobs.tokens.join(''), text.choices[0].text);
    assert.deepEqual(text.choices[0].logprobs.text_offset[0], 0);
  });

  it('tells of lines that are no requests, with their numbers, and of requests that fail, in their place', async () => {
    const wrong = { id: 'hot', prompt: 'a', temperature: -1 };
    const wrongChat = { ...chatOf(2), body: { ...chatOf(2).body, temperature: 9000 } };
    await writeFile(at('in.jsonl'), jsonl([requestOf(0), '{"id"', '', requestOf(0), wrong, wrongChat, requestOf(1)]));
    const { finished, failed, invalid } = await run();
    assert.deepEqual([finished, failed, invalid], [4, 2, 2]);
    const errors = await resultsIn('out.errors.jsonl');
    assert.deepEqual(
      errors.map(({ line }) => line),
      [2, 4],
    );
    assert.match(errors[0].error.message, /^Line 2: it is not JSON/);
    assert.match(errors[1].error.message, /^Line 4: an earlier line has the same id, "r0"/);
    const results = await resultsIn();
    const hot = results.find(({ id }) => id === 'hot');
    assert.equal(hot.error.code, 'invalid_argument');
    const chat = results.find(({ custom_id }) => custom_id === 'c2');
    assert.deepEqual([chat.response, chat.error.code], [null, 'invalid_argument']);
  });

  it('does what has no result, and nothing twice', async () => {
    await writeFile(at('in.jsonl'), jsonl(many(30)));
    await run();
    const lines = (await readFile(at('out.jsonl'), 'utf8')).split('\n');
    const kept = `${lines.slice(0, 12).join('\n')}\n${lines[12]!.slice(0, 20)}`;
    await writeFile(at('out.jsonl'), kept);
    const { finished, skipped } = await run();
    assert.deepEqual([finished, skipped], [18, 12]);
    assert.ok(
      (await readFile(at('out.jsonl'), 'utf8')).startsWith(lines.slice(0, 12).join('\n')),
      'what was there stays',
    );
    assert.equal(new Set((await resultsIn()).map(({ id }) => id)).size, 30);
    assert.equal((await run()).finished, 0);
  });

  it('is done in parts, which together are the whole, each with its own errors', async () => {
    const lines = [...many(20), { id: 'x' }, { id: 'r3', prompt: 'again' }, ...many(31).slice(20)];
    await writeFile(at('in.jsonl'), jsonl(lines));
    const ids: string[] = [];
    let [invalid, total] = [0, 0];
    for (const index of [1, 2, 3, 4]) {
      const progress = await run({ output: at(`part${index}.jsonl`), part: { index, count: 4 } });
      invalid += progress.invalid;
      total += progress.total!;
      ids.push(...(await resultsIn(`part${index}.jsonl`)).map(({ id }) => id));
    }
    assert.deepEqual([invalid, total, ids.length], [1, lines.length, lines.length - 1]);
    assert.deepEqual(ids.sort(), [...many(31).map(({ id }) => id), 'r3'].sort());
    for (const part of [
      { index: 0, count: 4 },
      { index: 5, count: 4 },
      { index: 1.5, count: 4 },
      { index: 1, count: 0 },
    ])
      await assertRejectsQwen2(run({ part }), 'invalid_argument', 'There is no part');
  });

  it('reads gzipped files', async () => {
    await writeFile(at('in.jsonl'), gzipSync(jsonl(many(5))));
    assert.equal((await run()).finished, 5);
  });

  it('keeps what is finished when it is aborted, and goes on from there', async () => {
    await writeFile(at('in.jsonl'), jsonl(many(200)));
    const controller = new AbortController();
    const onProgress = ({ finished }: BatchFileProgress) => finished === 20 && controller.abort();
    await assertRejectsQwen2(run({ signal: controller.signal, onProgress }), 'aborted');
    const kept = (await resultsIn()).length;
    assert.ok(kept > 0 && kept < 200, `${kept} are there`);
    assert.equal((await run()).skipped, kept);
    assert.equal(new Set((await resultsIn()).map(({ id }) => id)).size, 200);
  });

  it('leaves a file alone that holds something else', async () => {
    await writeFile(at('in.jsonl'), jsonl(many(3)));
    for (const content of ['my notes\n', '{"name":"x"}\n', '5\n']) {
      await writeFile(at('out.jsonl'), content);
      await assertRejectsQwen2(run(), 'invalid_argument', 'line 1, is no result of a batch');
      assert.equal(await readFile(at('out.jsonl'), 'utf8'), content);
    }
  });

  it('says that there is no input', () => assertRejectsQwen2(run(), 'not_found', 'There is no file'));

  describe('as qwen2 batch', () => {
    const command = () => [
      'batch',
      demoFolder,
      at('in.jsonl'),
      '-o',
      at('out.jsonl'),
      '--device',
      'cpu',
      '--context-length',
      '128',
    ];

    it('tells what it did; with --json as an object', async () => {
      await writeFile(at('in.jsonl'), jsonl(many(4)));
      const { code, stdout, stderr } = await qwen2(command());
      assert.deepEqual([code, stdout], [0, '']);
      assert.match(stderr, /^4 done in [\d.]+ s \| \d+ tokens read, \d+ written, \d+ a second\n$/);
      const again = await qwen2([...command(), '--json']);
      assert.deepEqual([again.code, JSON.parse(again.stdout).skipped], [0, 4]);
    });

    it('names the output of a part after it', async () => {
      await writeFile(at('in.jsonl'), jsonl(many(5)));
      for (const part of ['1/2', '2/2']) assert.equal((await qwen2([...command(), '--part', part])).code, 0);
      assert.deepEqual(
        [(await resultsIn('out.1-of-2.jsonl')).length, (await resultsIn('out.2-of-2.jsonl')).length],
        [3, 2],
      );
      for (const part of ['0/2', '3/2', '1', 'a/b'])
        assert.equal((await qwen2([...command(), '--part', part])).code, 2);
    });

    it('reads stdin', async () => {
      const args = command().map((arg) => (arg === at('in.jsonl') ? '-' : arg));
      assert.equal((await qwen2(args, jsonl(many(3)))).code, 0);
      assert.equal((await resultsIn()).length, 3);
    });

    it('interrupted by Ctrl-C exits with 130, and says that it can go on', async () => {
      await writeFile(at('in.jsonl'), jsonl(many(2000)));
      const running = startQwen2(command());
      while (!existsSync(at('out.jsonl')) || (await readFile(at('out.jsonl'))).length === 0) await setTimeout(20);
      running.child.kill('SIGINT');
      assert.equal(await running.code, 130);
      assert.match(await running.stderr, /the same command goes on/);
    });

    it('ends with an error where there is no more room, and goes on when there is', async () => {
      await writeFile(at('in.jsonl'), jsonl(many(60)));
      const cramped = await qwen2(command(), '', { fileKilobytes: 4 });
      assert.equal(cramped.code, 1);
      assert.match(cramped.stderr, /out\.jsonl can't be written: EFBIG.*\[io_error\]/);
      assert.equal((await readFile(at('out.jsonl'))).length, 4096, 'a line is cut off');
      assert.equal((await qwen2(command())).code, 0);
      assert.equal(new Set((await resultsIn()).map(({ id }) => id)).size, 60);
    });

    it('killed at any moment, and started again, has every result once', async () => {
      const random = new Random(3);
      const count = 3000;
      await writeFile(at('in.jsonl'), jsonl(many(count)));
      for (let kills = 0; kills < 20; kills++) {
        const { child, code } = startQwen2(command());
        await setTimeout(random.integer(50, 900));
        child.kill('SIGKILL');
        await code;
      }
      const killed = (await resultsIn().catch(() => [])).length;
      assert.ok(killed > 0 && killed < count, `${killed} of ${count} before the last run`);
      const { code } = await qwen2(command());
      assert.equal(code, 0);
      const results = await resultsIn();
      assert.equal(results.length, count);
      assert.equal(new Set(results.map(({ id }) => id)).size, count);
    }).timeout(180_000);
  });
});
