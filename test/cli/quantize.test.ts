import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { demoFolder } from '../support/checkpoints.js';
import { outcomeOf, qwen2, startQwen2, Terminal } from '../support/cli.js';

describe('qwen2 quantize', function () {
  this.timeout(120_000);
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qwen2-cli-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  it('writes a checkpoint that the other commands take', async () => {
    const out = join(folder, 'out');
    const { code, stdout, stderr } = await qwen2(['quantize', demoFolder, out]);
    assert.deepEqual([code, stdout], [0, '']);
    assert.match(stderr, /^\S+out: 2\.\d MB in 6 files\n$/);
    const info = await qwen2(['info', out, '--no-measure']);
    assert.match(info.stdout, /as AWQ int4, groups of 128/);
    const text = await qwen2(['generate', out, 'To Sherlock Holmes she is always', '-n', '8', '-t', '0']);
    assert.match(text.stdout, / the woman\. I have/);
  });

  it('--json prints what was done; again, that nothing was left to do', async () => {
    const command = ['quantize', demoFolder, join(folder, 'out'), '--json', '--group-size', '64'];
    const result = async () => JSON.parse((await qwen2(command)).stdout);
    const { bytes, ...counts } = await result();
    assert.deepEqual(counts, { written: 6, found: 0 });
    assert.deepEqual(await result(), { written: 0, found: 6, bytes });
  });

  for (const { title, args, code, says } of [
    { title: 'an unknown method', args: ['--method', 'gptq'], code: 2, says: /Allowed choices are rtn, awq/ },
    { title: 'a group size of 100', args: ['--group-size', '100'], code: 2, says: /--group-size is 100/ },
    { title: 'awq without a text', args: ['--method', 'awq'], code: 2, says: /give calibration/ },
    { title: 'a text that is not there', args: ['--calibration', '/nowhere.txt'], code: 1, says: /nowhere\.txt/ },
  ])
    it(`refuses ${title} and exits with ${code}`, async () => {
      const outcome = await qwen2(['quantize', demoFolder, join(folder, 'out'), ...args]);
      assert.deepEqual([outcome.code, outcome.stdout], [code, '']);
      assert.match(outcome.stderr, says);
      assert.deepEqual(await readdir(folder), []);
    });

  it('refuses a folder that holds something else', async () => {
    await writeFile(join(folder, 'diary.txt'), 'mine');
    const { code, stderr } = await qwen2(['quantize', demoFolder, folder]);
    assert.equal(code, 2);
    assert.match(stderr, /diary\.txt; give the path of a new folder \[invalid_argument\]/);
  });

  it('SIGINT exits with 130, and the same command goes on', async () => {
    const out = join(folder, 'out');
    const slowly = ['quantize', demoFolder, out, '--device', 'reference', '--json'];
    const running = startQwen2(slowly);
    while ((await readdir(out).catch(() => [])).length < 3) await new Promise((resolve) => setTimeout(resolve, 2));
    running.child.kill('SIGINT');
    const { code, stdout, stderr } = await outcomeOf(running);
    assert.deepEqual([code, stdout], [130, '']);
    assert.match(stderr, /interrupted; what is written stays, and the same command goes on/);
    const { written, found } = JSON.parse((await qwen2(slowly)).stdout);
    assert.ok(found > 0 && written + found === 6, `${found} of ${written + found}`);
  });

  it('shows a bar on a terminal', async () => {
    const terminal = new Terminal(['quantize', demoFolder, join(folder, 'out')]);
    await terminal.waitFor(/quantizing [\s\S]*6\/6 MB/);
    await terminal.waitFor(/out: 2\.\d MB in 6 files/);
    assert.equal(await terminal.exitCode(), 0);
  });
});
