import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { packageFolder } from '../../lib/native/addon.js';
import { qwen2 } from '../support/cli.js';

describe('qwen2', () => {
  it('--version is the package’s', async () => {
    const { version } = JSON.parse(await readFile(join(packageFolder, 'package.json'), 'utf8'));
    assert.deepEqual(await qwen2(['--version']), { code: 0, stdout: `${version}\n`, stderr: '' });
  });

  const helps: Record<string, string[]> = {
    '': ['generate', 'chat', 'info', 'bench', '130 interrupted'],
    generate: ['<folder> [prompt]', '--tokens', '--special', '--json', '--device', '--max-tokens', '--stop', '--seed'],
    chat: ['<folder>', '--system', '--device', '--temperature', '--context-length'],
    info: ['[folder]', '--json'],
    bench: ['[folder]', '--shape', '--prompt-tokens', '--new-tokens', '--sequences', '--repeat', '--device'],
  };
  for (const [command, words] of Object.entries(helps))
    it(`${command} --help names what there is`, async () => {
      const { code, stdout, stderr } = await qwen2([...(command ? [command] : []), '--help']);
      assert.deepEqual([code, stderr], [0, '']);
      for (const word of words) assert.ok(stdout.includes(word), `"${word}" is missing in:\n${stdout}`);
      assert.ok(Math.max(...stdout.split('\n').map((line) => line.length)) <= 80, 'lines of 80 characters');
    });

  it('without a command shows the help on stderr and exits with 2', async () => {
    const { code, stdout, stderr } = await qwen2([]);
    assert.deepEqual([code, stdout], [2, '']);
    assert.match(stderr, /Usage: qwen2/);
  });

  it('with an unknown command says so and exits with 2', async () => {
    const { code, stdout, stderr } = await qwen2(['genrate']);
    assert.deepEqual([code, stdout], [2, '']);
    assert.match(stderr, /unknown command 'genrate'[\s\S]*generate/);
  });
});
