import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { packageFolder } from '../../lib/native/addon.js';
import { demoFolder as demo, fixtureFolder } from '../support/checkpoints.js';
import {
  firstOutput,
  keys,
  type Outcome,
  outcomeOf,
  qwen2,
  startQwen2,
  Terminal,
  withDemoCopy,
} from '../support/cli.js';

const withoutTokenizer = fixtureFolder('qwen2-gqa');

/** Hugging Face's greedy continuation of 64 tokens, as models/demo/expected.json has it. */
interface Continuation {
  prompt: string;
  tokens: number[];
  greedy: number[];
  text: string;
}

const greedily = ['-t', '0', '-n', '64'];
/** Asserts that a command failed so, with nothing on stdout and a message for people on stderr. */
const assertFailed = (error: Outcome, code: number, ...expected: string[]) => {
  assert.deepEqual([error.code, error.stdout], [code, ''], error.stderr);
  for (const word of expected) assert.ok(error.stderr.includes(word), `"${error.stderr}" lacks "${word}"`);
  assert.ok(!error.stderr.includes('    at '), `a stack: ${error.stderr}`);
};

describe('qwen2 generate', () => {
  let known: Continuation;
  before(async () => {
    const file = await readFile(join(packageFolder, 'models', 'demo', 'expected.json'), 'utf8');
    known = JSON.parse(file).greedy[0];
  });

  describe('the prompt', () => {
    const ways: Record<string, (prompt: string) => { args: string[]; input?: string }> = {
      'is an argument': (prompt) => ({ args: [demo, prompt] }),
      'is read from stdin without one': (prompt) => ({ args: [demo], input: prompt }),
      'is read from stdin for "-"': (prompt) => ({ args: [demo, '-'], input: prompt }),
    };
    for (const [title, way] of Object.entries(ways))
      it(`${title}; only its continuation comes out, and nothing on stderr`, async () => {
        const { args, input } = way(known.prompt);
        const outcome = await qwen2(['generate', ...args, ...greedily], input);
        assert.deepEqual(outcome, { code: 0, stdout: `${known.text}\n`, stderr: '' });
      });

    it('is token ids with --tokens; ids come out, on one line', async () => {
      const outcome = await qwen2(['generate', demo, '--tokens', known.tokens.join(','), ...greedily]);
      assert.deepEqual(outcome, { code: 0, stdout: `${known.greedy.join(',')}\n`, stderr: '' });
    });

    it('as token ids needs no tokenizer', async () => {
      const { code, stdout } = await qwen2(['generate', withoutTokenizer, '--tokens', '1,2', '-n', '5', '-t', '0']);
      assert.equal(code, 0);
      assert.match(stdout, /^\d+(,\d+){4}\n$/);
    });

    it('has control tokens only with --special', async () => {
      const promptTokens = async (...flags: string[]) => {
        const { stdout } = await qwen2(['generate', demo, '<|im_start|>', '--json', '-n', '1', ...flags]);
        return JSON.parse(stdout).usage.promptTokens;
      };
      assert.equal(await promptTokens('--special'), 1);
      assert.ok((await promptTokens()) > 5);
    });
  });

  it('prints one JSON object with --json', async () => {
    const { code, stdout, stderr } = await qwen2(['generate', demo, known.prompt, '--json', ...greedily]);
    const { seconds, choices, ...result } = JSON.parse(stdout);
    assert.deepEqual([code, stderr, stdout.split('\n').length], [0, '', 2]);
    assert.deepEqual(result, {
      text: known.text,
      tokens: known.greedy,
      finishReason: 'length',
      usage: { promptTokens: known.tokens.length, completionTokens: 64 },
    });
    assert.equal(choices.length, 1);
    assert.ok(seconds > 0 && seconds < 60);
  });

  describe('options', () => {
    const text = async (...options: string[]) => {
      const outcome = await qwen2(['generate', demo, known.prompt, '-n', '64', ...options]);
      assert.equal(outcome.code, 0, outcome.stderr);
      return outcome.stdout.slice(0, -1);
    };
    const hot = ['--top-p', '1', '--top-k', '0', '-t', '5', '--seed', '3'];

    it('a high temperature leaves the greedy text', async () => {
      assert.notEqual(await text(...hot), known.text);
    });

    for (const cut of [
      ['--top-k', '1'],
      ['--top-p', '0.000001'],
      ['--min-p', '1'],
    ])
      it(`${cut.join(' ')} is greedy at any temperature`, async () => {
        assert.equal(await text(...hot, ...cut), known.text);
      });

    it('penalties keep out what was there', async () => {
      const run = (...options: string[]) => qwen2(['generate', demo, 'Moscow', '-t', '0', '-n', '200', ...options]);
      const [plain, ...penalized] = await Promise.all([
        run(),
        run('--repetition-penalty', '3'),
        run('--presence-penalty', '2'),
        run('--frequency-penalty', '2'),
      ]);
      const texts = [plain, ...penalized].map(({ stdout }) => stdout);
      assert.equal(new Set(texts).size, 4, 'each penalty has an effect of its own');
    });

    it('--seed makes a text repeatable; another seed and no seed give another', async () => {
      const run = (...seed: string[]) => text('-t', '2', '--top-p', '1', '--top-k', '0', ...seed);
      const [once, again, other, none] = await Promise.all([run('-s', '7'), run('-s', '7'), run('-s', '8'), run()]);
      assert.equal(once, again);
      assert.equal(new Set([once, other, none]).size, 3);
    });

    it('--stop ends before the first of the texts', async () => {
      assert.equal(await text('-t', '0', '--stop', 'seldom heard', '--stop', ' mention'), ' the woman. I have ');
    });

    it('--context-length bounds prompt and answer together', async () => {
      const run = await qwen2(['generate', demo, known.prompt, '--json', '--context-length', '20']);
      const { usage, finishReason } = JSON.parse(run.stdout);
      assert.deepEqual([usage.promptTokens + usage.completionTokens, finishReason], [20, 'length']);
    });

    it("the checkpoint's end token ends a text, and --ignore-eos goes on", async () => {
      // The greedy text begins with ' the', ' woman', '.'.
      await withDemoCopy({ 'generation_config.json': { eos_token_id: known.greedy[2]! } }, async (folder) => {
        const run = async (...flags: string[]) =>
          JSON.parse((await qwen2(['generate', folder, known.prompt, '--json', ...greedily, ...flags])).stdout);
        const ended = await run();
        assert.deepEqual([ended.text, ended.finishReason], [' the woman', 'stop']);
        assert.deepEqual((await run('--ignore-eos')).tokens, known.greedy);
      });
    });

    for (const device of [
      ['-d', 'reference'],
      ['-d', 'cpu', '--threads', '1', '--simd', 'scalar'],
    ])
      it(`${device.join(' ')} works`, async () => {
        assert.equal(await text('-t', '0', '-n', '8', ...device), ' the woman. I have seldom');
      });
  });

  describe('misused', () => {
    const invalid: [args: string[], ...words: string[]][] = [
      [[], "missing required argument 'folder'"],
      [[demo, 'a', 'b'], 'too many arguments'],
      [[demo, 'a', '--frobnicate'], "unknown option '--frobnicate'"],
      [[demo, 'a', '--tokens', '1,2'], 'prompt', '--tokens'],
      [[demo, ''], 'The prompt has no tokens'],
      [[demo, '-'], 'The prompt has no tokens'],
      [[demo, '--tokens', '1,x'], '--tokens', '1,x', 'whole number'],
      [[demo, '--tokens', '1,2048'], '2048', '2047'],
      [[demo, 'a', '-t', 'warm'], '--temperature', "'warm'", 'number'],
      [[demo, 'a', '-t', '-1'], 'temperature', '-1', '100'],
      [[demo, 'a', '--top-p', '0'], '--top-p', '1'],
      [[demo, 'a', '--top-k', '1.5'], '--top-k', '1.5', 'whole number'],
      [[demo, 'a', '--min-p', '2'], '--min-p', '2'],
      [[demo, 'a', '--repetition-penalty', '0'], '--repetition-penalty'],
      [[demo, 'a', '--presence-penalty', '3'], '--presence-penalty'],
      [[demo, 'a', '--frequency-penalty', '-3'], '--frequency-penalty'],
      [[demo, 'a', '--seed', '-1'], 'seed', '-1'],
      [[demo, 'a', '-n', '0'], '--max-tokens', '0'],
      [[demo, 'a', '--stop', ''], 'stop'],
      [[demo, 'a', '--context-length', '0'], '--context-length', '2048'],
      [[demo, 'a', '--threads', '0'], 'threads', '0', '1024'],
      [[demo, 'a', '--simd', 'mmx'], '--simd', 'mmx', 'avx2'],
      [[demo, 'a', '-d', 'tpu'], "'tpu'", 'cuda', 'cpu', 'reference'],
    ];
    for (const [args, ...expected] of invalid)
      it(`${args.map((arg) => (arg === demo ? 'DEMO' : arg || '""')).join(' ')} exits with 2`, async () => {
        assertFailed(await qwen2(['generate', ...args]), 2, ...expected);
      });

    it('finds wrong sampling options before it looks for the model', async () => {
      assertFailed(await qwen2(['generate', '/nowhere', 'a', '--top-p', '2']), 2, '--top-p');
    });
  });

  describe('failing', () => {
    const failures: [args: string[], ...words: string[]][] = [
      [['/nowhere', 'a'], '/nowhere', '[not_found]'],
      [[join(demo, 'config.json'), 'a'], 'is a file', '[not_found]'],
      [[join(packageFolder, 'scripts'), 'a'], 'config.json', '[not_found]'],
      [[withoutTokenizer, 'a'], 'no tokenizer', '[unsupported]'],
      [[demo, 'word '.repeat(50), '--context-length', '20'], '20', '--context-length', '[context_overflow]'],
    ];
    for (const [args, ...expected] of failures)
      it(`${expected.at(-1)}: ${expected[0]} exits with 1`, async () => {
        assertFailed(await qwen2(['generate', ...args]), 1, ...expected);
      });
  });

  describe('ended from outside', () => {
    /** Far longer than a signal takes. */
    const long = ['generate', demo, 'It was', '--ignore-eos'];

    it('a reader that has enough is no failure', async () => {
      const running = startQwen2(long);
      const { child, stdout, stderr, code } = running;
      await firstOutput(running);
      child.stdout.destroy();
      await assert.rejects(stdout, { code: 'ERR_STREAM_PREMATURE_CLOSE' });
      assert.deepEqual([await code, await stderr], [0, '']);
    });

    it('SIGINT keeps what was written, ends the line and exits with 130', async () => {
      const running = startQwen2(long);
      await firstOutput(running);
      running.child.kill('SIGINT');
      const { code, stdout, stderr } = await outcomeOf(running);
      assert.deepEqual([code, stderr], [130, '']);
      assert.match(stdout, /^ \S[\s\S]*\n$/);
      assert.ok(stdout.length < 4000, 'the rest was not generated');
    });
  });

  describe('on a terminal', () => {
    it('shows the loading, the text and a summary', async () => {
      const terminal = new Terminal(['generate', demo, known.prompt, ...greedily], { NO_COLOR: undefined });
      const bar = await terminal.waitFor(/loading [\s\S]*6\/6 MB/);
      assert.match(bar, /0%/);
      const rest = await terminal.waitFor(/ended by \w+/);
      assert.ok(rest.includes(known.text), rest);
      assert.ok(rest.includes('\x1b[2m7 + 64 tokens in'), 'dimmed');
      assert.match(rest, /7 \+ 64 tokens in [\d.]+ s, [\d.]+ a second; ended by length/);
      assert.equal(await terminal.exitCode(), 0);
    });

    it('has no colours with NO_COLOR', async () => {
      const terminal = new Terminal(['generate', demo, known.prompt, ...greedily], { NO_COLOR: '1' });
      assert.match(await terminal.waitFor(/ended by length/), /[^m]7 \+ 64 tokens/);
      assert.equal(await terminal.exitCode(), 0);
    });

    it('reads a prompt that is typed, until Ctrl-D', async () => {
      const terminal = new Terminal(['generate', demo, ...greedily]);
      await terminal.waitFor(/then Ctrl-D/);
      terminal.type(known.prompt + keys.ctrlD + keys.ctrlD);
      assert.ok((await terminal.waitFor(/ended by length/)).includes(known.text));
    });

    it('Ctrl-C keeps what was written and exits with 130', async () => {
      const terminal = new Terminal(['generate', demo, known.prompt, '-t', '0', '--ignore-eos']);
      await terminal.waitFor(/ the woman\./);
      terminal.type(keys.ctrlC);
      await terminal.waitFor(/ended by abort/);
      assert.equal(await terminal.exitCode(), 130);
    });
  });
});
