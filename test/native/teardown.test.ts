import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageFolder } from '../../lib/native/addon.js';

const program = fileURLToPath(new URL('./teardownPrograms.js', import.meta.url));

interface Ended {
  code: number | null;
  signal: string | null;
  output: string;
  errors: string;
  at: number;
}

/** Runs a program of teardownPrograms.ts; one that does not end is killed, which shows as a signal. */
function run(
  name: string,
  { env = {}, limits = '' }: { env?: NodeJS.ProcessEnv; limits?: string } = {},
): Promise<Ended> {
  const node = [process.execPath, program, name];
  const [command, ...args] = limits ? ['sh', '-c', `${limits}; exec "$@"`, 'sh', ...node] : node;
  const child = spawn(command!, args, { env: { ...process.env, ...env }, timeout: 50_000, killSignal: 'SIGKILL' });
  let output = '';
  let errors = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  child.stderr.on('data', (data) => {
    errors += data;
  });
  return new Promise((resolve, reject) => {
    let at = 0;
    child.on('error', reject);
    child.on('exit', () => {
      at = Date.now();
    });
    child.on('close', (code, signal) => resolve({ code, signal, output: output.trim(), errors, at }));
  });
}

/** Runs a program that must end by itself with the exit code. */
async function runTo(code: number, name: string, options = {}): Promise<Ended> {
  const ended = await run(name, options);
  assert.deepEqual({ code: ended.code, signal: ended.signal }, { code, signal: null }, ended.errors);
  return ended;
}

const sanitized = process.env.QWEN2_ADDON?.includes('sanitized') ?? false;

describe('teardown', () => {
  describe('workers', () => {
    it('16 of them, terminated in the middle of everything', async () => {
      assert.equal((await runTo(0, 'workersTerminated')).output, '16 terminated');
    });

    it('that end by themselves with work queued and nothing disposed', async () => {
      assert.equal((await runTo(0, 'workersEnd')).output, 'exit codes 0,0,0,0');
    });

    it('leave the main thread its addon', async () => {
      assert.equal((await runTo(0, 'mainThreadLivesOn')).output, 'read 5,6');
    });
  });

  describe('the process', () => {
    it('exits during work, with the code it was given', async () => {
      await runTo(7, 'exitDuringWork');
    });

    it('ends of an uncaught exception during work', async () => {
      const { errors } = await runTo(1, 'throwDuringWork');
      assert.match(errors, /Error: nobody catches this/);
    });

    for (const name of ['idle', 'workWithoutPromise'])
      it(`ends when nobody waits for anything: ${name}`, async () => {
        const { output, at } = await runTo(0, name);
        const took = at - Number(output.replace('idle at ', ''));
        // The work queued in `workWithoutPromise` takes seconds.
        assert.ok(took < (sanitized ? 10_000 : 2000), `${took} ms`);
      });

    it('lives until a promise is settled', async () => {
      assert.equal((await runTo(0, 'pendingPromise')).output, 'settled');
    });

    it('ends after promises that were refused in a capture', async () => {
      assert.equal((await runTo(0, 'refusedPromises')).output, 'rejected,rejected,rejected');
    });

    it('ends after a stream and its device are disposed during work', async () => {
      assert.equal((await runTo(0, 'disposeDuringWork')).output, 'disposed');
    });
  });
});

describe('an addon that does not load', () => {
  const folder = mkdtempSync(join(tmpdir(), 'qwen2-'));
  const damaged = join(folder, 'damaged.node');
  before(() => writeFileSync(damaged, 'not a library'));
  after(() => rmSync(folder, { recursive: true }));

  const cases = [
    { title: 'there is none', addon: '/nowhere/qwen2.node', reason: /Cannot find module '\/nowhere\/qwen2.node'/ },
    { title: 'no library', addon: `${packageFolder}/package.json`, reason: /setErrorClass is not a function/ },
    { title: 'damaged', addon: damaged, reason: /file too short|invalid ELF header/ },
  ];
  for (const { title, addon, reason } of cases)
    it(`${title}: device_unavailable, the reason and the remedies`, async () => {
      const { output } = await runTo(0, 'addonErrors', { env: { QWEN2_ADDON: addon } });
      const { name, code, message } = JSON.parse(output);
      assert.deepEqual({ name, code }, { name: 'Qwen2Error', code: 'device_unavailable' });
      assert.match(message, /^The native addon of qwen2-node can't be loaded for linux-/);
      assert.match(message, reason);
      for (const remedy of [/npm rebuild qwen2-node/, /asarUnpack/]) assert.match(message, remedy);
    });
});

describe('a system out of threads', () => {
  it('is an error, not the end of the process', async function () {
    // Stacks of 1 GiB within an address space that holds a few of them; sanitizers reserve more than that.
    if (sanitized) this.skip();
    const { output } = await runTo(0, 'tooManyThreads', { limits: 'ulimit -s 1048576; ulimit -v 100000000' });
    assert.match(output, /^out_of_memory: the system refused thread \d+ of 1000: .+; use fewer threads$/);
  });
});
