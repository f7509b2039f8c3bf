import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { Queue } from 'bullmq';
import { runQueuedBatch } from '../../lib/queue/coordinator.js';
import { demoFolder } from '../support/checkpoints.js';
import { qwen2, startQwen2 } from '../support/cli.js';
import { hasRedis, RedisServer } from '../support/redis.js';

const requestOf = (i: number) => ({
  id: `r${i}`,
  prompt: `It was ${i} in the morning`,
  maxTokens: 8 + (i % 40),
  temperature: 0,
});
const jsonl = (values: readonly unknown[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('');
const many = (count: number) => Array.from({ length: count }, (_, i) => requestOf(i));

describe('a batch by way of a queue', function () {
  this.timeout(120_000);
  let redis: RedisServer;
  let folder = '';
  const running: ReturnType<typeof startQwen2>[] = [];
  const at = (name: string) => join(folder, name);

  before(function () {
    if (!hasRedis) this.skip();
  });
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qwen2-queue-'));
    redis = await RedisServer.start();
  });
  afterEach(async () => {
    for (const { child, code } of running.splice(0)) {
      child.kill('SIGKILL');
      await code;
    }
    await redis?.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const start = (args: readonly string[]) => {
    const started = startQwen2(args);
    running.push(started);
    return started;
  };
  const worker = () =>
    start([
      ...['worker', demoFolder, '--queue', redis.url, '--heartbeat', '2', '-b', '8'],
      ...['--device', 'cpu', '--threads', '1', '--context-length', '128'],
    ]);
  const command = (input = 'in.jsonl', output = 'out.jsonl') => [
    ...['batch', at(input), '-o', at(output), '--queue', redis.url, '--shard-size', '16'],
  ];
  // biome-ignore lint/suspicious/noExplicitAny: lines of JSON
  const resultsIn = async (name = 'out.jsonl'): Promise<any[]> =>
    (await readFile(at(name), 'utf8').catch(() => ''))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const untilResults = async (count: number, name?: string) => {
    while ((await resultsIn(name)).length < count) await setTimeout(20);
  };
  const withShards = async (use: (queue: Queue) => Promise<void>) => {
    const queue = new Queue('shards', { prefix: 'qwen2', connection: { port: redis.port } });
    try {
      await use(queue);
    } finally {
      await queue.close();
    }
  };
  const keysLeft = () => redis.with((client) => client.keys('qwen2:{results,finished}*'));

  it('is done by three workers, one of which is killed and one told to end: as one process does it alone', async () => {
    const count = 600;
    await writeFile(at('in.jsonl'), jsonl(many(count)));
    const workers = [worker(), worker(), worker()];
    const coordinator = start([...command(), '--json']);
    await untilResults(60);
    workers[0]!.child.kill('SIGKILL');
    await untilResults(200);
    workers[1]!.child.kill('SIGTERM');
    assert.equal(await workers[1]!.code, 0, await workers[1]!.stderr);
    assert.match(await workers[1]!.stderr, /\d+ requests and \d+ whole shards done, 0 failed/);
    assert.equal(await coordinator.code, 0, await coordinator.stderr);
    const { finished, failed, skipped, total } = JSON.parse(await coordinator.stdout);
    assert.deepEqual([finished, failed, skipped, total], [count, 0, 0, count]);
    const alone = await qwen2([
      ...['batch', demoFolder, at('in.jsonl'), '-o', at('alone.jsonl'), '--device', 'cpu', '--context-length', '128'],
    ]);
    assert.equal(alone.code, 0);
    const sorted = async (name: string) => (await readFile(at(name), 'utf8')).split('\n').sort();
    assert.deepEqual(await sorted('out.jsonl'), await sorted('alone.jsonl'));
    assert.deepEqual(await keysLeft(), []);
    assert.ok(!existsSync(at('out.jsonl.queue')));
  });

  it('goes on where a coordinator was killed, with what workers did meanwhile', async () => {
    const count = 400;
    await writeFile(at('in.jsonl'), jsonl(many(count)));
    worker();
    for (const results of [20, 120]) {
      const killed = start(command());
      await untilResults(results);
      killed.child.kill('SIGKILL');
      await killed.code;
    }
    await setTimeout(1000);
    const { code, stdout, stderr } = await qwen2([...command(), '--json']);
    assert.equal(code, 0, stderr);
    const { finished, skipped } = JSON.parse(stdout);
    const ids = (await resultsIn()).map(({ id }) => id);
    assert.deepEqual([ids.length, new Set(ids).size], [count, count]);
    assert.ok(finished + skipped >= count && skipped >= 120, `${finished} done, ${skipped} were there`);
  });

  it('leaves what it has not merged in Redis when it is interrupted', async () => {
    const count = 400;
    await writeFile(at('in.jsonl'), jsonl(many(count)));
    worker();
    const coordinator = start(command());
    await untilResults(100);
    coordinator.child.kill('SIGINT');
    assert.equal(await coordinator.code, 130, await coordinator.stderr);
    const merged = (await resultsIn()).map(({ id }) => id);
    await withShards(async (queue) => {
      while ((await queue.getJobCountByTypes('waiting', 'active', 'delayed')) > 0) await setTimeout(50);
    });
    const batch = (await readFile(at('out.jsonl.queue'), 'utf8')).trim();
    const left = await redis.with((client) => client.xrange(`qwen2:results:${batch}`, '-', '+'));
    const ids = left.map(([, fields]) => JSON.parse(fields[1]!).id);
    assert.equal(new Set([...merged, ...ids]).size, count);
  });

  it('shares workers with other batches, with the same ids', async () => {
    await writeFile(at('a.jsonl'), jsonl(many(60)));
    await writeFile(at('b.jsonl'), jsonl(many(60).map((request) => ({ ...request, maxTokens: 2 }))));
    worker();
    const [a, b] = await Promise.all([qwen2(command('a.jsonl', 'a.out')), qwen2(command('b.jsonl', 'b.out'))]);
    assert.deepEqual([a.code, b.code], [0, 0]);
    for (const [name, tokensOf] of [
      ['a.out', (i: number) => requestOf(i).maxTokens],
      ['b.out', () => 2],
    ] as const) {
      const results = await resultsIn(name);
      assert.equal(new Set(results.map(({ id }) => id)).size, 60);
      for (const { id, usage } of results) assert.equal(usage.completionTokens, tokensOf(Number(id.slice(1))));
    }
  });

  it('waits for a Redis that is gone, and says so', async () => {
    await writeFile(at('in.jsonl'), jsonl(many(300)));
    const busy = worker();
    const coordinator = start(command());
    await untilResults(40);
    await redis.stop();
    await setTimeout(500);
    await redis.run();
    assert.equal(await coordinator.code, 0, await coordinator.stderr);
    assert.match(await coordinator.stderr, /Redis at 127\.0\.0\.1:\d+ is gone; waiting for it\n.* is back\n/);
    assert.equal(new Set((await resultsIn()).map(({ id }) => id)).size, 300);
    busy.child.kill('SIGINT');
    assert.equal(await busy.code, 0, await busy.stderr);
  });

  it('puts again what Redis lost, and writes errors for what the queue gave up', async () => {
    await writeFile(at('in.jsonl'), jsonl(many(40)));
    const coordinator = start(command());
    await withShards(async (queue) => {
      while ((await queue.getWaitingCount()) < 3) await setTimeout(20);
      const [lost, failed] = await queue.getWaiting();
      await lost!.remove();
      await redis.with((client) =>
        client
          .multi()
          .lrem('qwen2:shards:wait', 1, failed!.id!)
          .hset(`qwen2:shards:${failed!.id}`, 'failedReason', 'job stalled more than allowable limit')
          .zadd('qwen2:shards:failed', Date.now(), failed!.id!)
          .exec(),
      );
      worker();
      assert.equal(await coordinator.code, 0, await coordinator.stderr);
      const results = await resultsIn();
      assert.equal(new Set(results.map(({ id }) => id)).size, 40);
      const errors = results.filter(({ error }) => error).map(({ id, error }) => [id, error.code, error.message]);
      assert.deepEqual(errors.map(([id]) => id).sort(), failed!.data.lines.map(({ id }: { id: string }) => id).sort());
      assert.match(errors[0]![2], /Its shard was given up by the queue: job stalled more than allowable limit/);
      assert.match(await coordinator.stderr, /\d+ requests are not in Redis any more; they are put there again/);
    });
  });

  it('puts again what Redis lost, even where more is out than may be by now', async () => {
    await writeFile(at('in.jsonl'), `${jsonl(many(40))}no request\n`);
    const killed = start(command());
    await withShards(async (queue) => {
      while ((await queue.getWaitingCount()) < 3) await setTimeout(20);
      killed.child.kill('SIGKILL');
      await killed.code;
      const told = new EventEmitter();
      const batch = runQueuedBatch({
        ...{ queue: redis.url, input: at('in.jsonl'), output: at('out.jsonl'), maxShards: 1 },
        onProgress: ({ invalid }) => invalid > 0 && told.emit('read'),
        onNote: (text) => told.emit('note', text),
        signal: AbortSignal.timeout(60_000),
      });
      await Promise.race([once(told, 'read'), batch]); // what is out is known by then
      await (await queue.getWaiting())[0]!.remove();
      const note = await Promise.race([once(told, 'note'), batch]);
      assert.match(String(note), /requests are not in Redis any more; they are put there again/);
      worker();
      assert.equal((await batch).finished, 40);
    });
  });

  it('keeps a bounded part of the input in Redis', async () => {
    await writeFile(at('in.jsonl'), jsonl(many(3000)));
    start([...command()]);
    await withShards(async (queue) => {
      while ((await queue.getWaitingCount()) < 128) await setTimeout(20);
      await setTimeout(500);
      assert.equal(await queue.getWaitingCount(), 128);
    });
  });

  it('interrupted by Ctrl-C exits with 130, and says that the same command goes on', async () => {
    await writeFile(at('in.jsonl'), jsonl(many(100)));
    const coordinator = start(command());
    while (!existsSync(at('out.jsonl.queue'))) await setTimeout(20);
    coordinator.child.kill('SIGINT');
    assert.equal(await coordinator.code, 130, await coordinator.stderr);
    assert.match(await coordinator.stderr, /workers go on with what they have, and the same command goes on/);
  });
});

describe('a batch by way of a queue that is none', () => {
  const input = ['-o', '/nowhere/out.jsonl'];
  const cases: { title: string; args: string[]; code: number; says: RegExp }[] = [
    {
      title: 'nobody at the address',
      args: ['batch', 'in.jsonl', ...input, '--queue', 'redis://127.0.0.1:1'],
      code: 1,
      says: /There is no Redis at 127\.0\.0\.1:1: .*ECONNREFUSED.* \[io_error\]/,
    },
    {
      title: 'an address of something else',
      args: ['batch', 'in.jsonl', ...input, '--queue', 'http://localhost'],
      code: 2,
      says: /The queue is "http:\/\/localhost"; it must be redis:\/\/host:port\/database/,
    },
    {
      title: 'a folder beside the input',
      args: ['batch', demoFolder, 'in.jsonl', ...input, '--queue', 'redis://127.0.0.1:1'],
      code: 2,
      says: /With --queue a batch has an input only, and its workers the folder/,
    },
    {
      title: 'an option of the workers',
      args: ['batch', 'in.jsonl', ...input, '--queue', 'redis://127.0.0.1:1', '--quantize', 'int4'],
      code: 2,
      says: /With --queue, --quantize is an option of qwen2 worker/,
    },
    {
      title: 'a shard size without a queue',
      args: ['batch', demoFolder, 'in.jsonl', ...input, '--shard-size', '4'],
      code: 2,
      says: /--shard-size belongs to --queue/,
    },
    {
      title: 'a worker without an address',
      args: ['worker', demoFolder],
      code: 2,
      says: /required option '--queue <url>' not specified/,
    },
    {
      title: 'a worker at an address where nobody is, before it loads a model',
      args: ['worker', '/nowhere', '--queue', 'redis://127.0.0.1:1', '--device', 'cpu', '--context-length', '64'],
      code: 1,
      says: /There is no Redis at 127\.0\.0\.1:1/,
    },
    {
      title: 'a heartbeat of nothing',
      args: ['worker', demoFolder, '--queue', 'redis://127.0.0.1:1', '--heartbeat', '0', '--device', 'cpu'],
      code: 2,
      says: /--heartbeat is 0; it must be from 1 to 3600 seconds/,
    },
  ];
  for (const { title, args, code, says } of cases)
    it(`${title}: exits with ${code}`, async () => {
      const outcome = await qwen2(args);
      assert.equal(outcome.code, code, outcome.stderr);
      assert.match(outcome.stderr, says);
    });
});
