import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ResultFile } from '../../lib/batch/resultFile.js';
import { assertRejectsQwen2 } from '../support/errors.js';

describe('a file of results', () => {
  let folder = '';
  const at = (name: string) => join(folder, name);
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qwen2-results-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  async function open(path: string): Promise<{ file: ResultFile; lines: string[] }> {
    const lines: string[] = [];
    return { file: await ResultFile.open(path, (text) => lines.push(text)), lines };
  }

  it('has every line as soon as it is appended, in order', async () => {
    const { file } = await open(at('out'));
    for (const line of ['a', 'b']) {
      await file.append(line);
      assert.ok((await readFile(at('out'), 'utf8')).endsWith(`${line}\n`));
    }
    await Promise.all(['c', 'd', 'e'].map((line) => file.append(line)));
    await file.close();
    assert.equal(await readFile(at('out'), 'utf8'), 'a\nb\nc\nd\ne\n');
  });

  it('tells what it has, and goes on behind it', async () => {
    await writeFile(at('out'), 'a\nb\n');
    const { file, lines } = await open(at('out'));
    assert.deepEqual(lines, ['a', 'b']);
    await file.append('c');
    await file.close();
    assert.equal(await readFile(at('out'), 'utf8'), 'a\nb\nc\n');
  });

  it('loses a line that was cut off, and nothing else', async () => {
    await writeFile(at('out'), 'a\nb\n{"half');
    const { file, lines } = await open(at('out'));
    assert.deepEqual(lines, ['a', 'b']);
    await file.append('c');
    await file.close();
    assert.equal(await readFile(at('out'), 'utf8'), 'a\nb\nc\n');
  });

  it('has one writer', async () => {
    const { file } = await open(at('out'));
    await assertRejectsQwen2(open(at('out')), 'invalid_argument', 'is being written by process');
    await file.close();
    assert.ok(!existsSync(`${at('out')}.lock`));
    await (await open(at('out'))).file.close();
  }).timeout(20_000);

  it('is free again when its writer was killed', async () => {
    const other = spawn('sleep', ['60']);
    await once(other, 'spawn');
    await writeFile(`${at('out')}.lock`, `${other.pid}\n`);
    setTimeout(() => other.kill('SIGKILL'), 300);
    const started = performance.now();
    await (await open(at('out'))).file.close();
    assert.ok(performance.now() - started > 250, 'it waited');
  });

  it('gives its lock back when what it holds is refused', async () => {
    await writeFile(at('out'), 'a\n');
    const refuse = () => {
      throw new Error('no');
    };
    await assertRejectsQwen2(ResultFile.open(at('out'), refuse), 'io_error', 'no');
    assert.ok(!existsSync(`${at('out')}.lock`));
  });

  it('that can’t be written says so', () => assertRejectsQwen2(open(at('none/out')), 'io_error', at('none/out')));

  it('is a regular file', () => assertRejectsQwen2(open(at('.')), 'io_error', at('.')));

  it('is no device', () => assertRejectsQwen2(open('/dev/null'), 'invalid_argument', '/dev/null is no regular file'));
});
