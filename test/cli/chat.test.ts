import assert from 'node:assert/strict';
import { type ChatMessage, loadModel, type Model } from '../../lib/index.js';
import { demoFolder as demo, fixtureFolder } from '../support/checkpoints.js';
import { keys, qwen2, Terminal, withDemoCopy } from '../support/cli.js';

const withoutTokenizer = fixtureFolder('qwen2-gqa');

/** Hot, so that an answer depends on every token before it; seeded, so that it can be repeated. */
const sampling = { temperature: 2, topP: 1, topK: 0, seed: 5, maxTokens: 8 };
const hot = ['-t', '2', '--top-p', '1', '--top-k', '0', '-s', '5', '-n', '8'];

describe('qwen2 chat', () => {
  describe('in a pipe', () => {
    let model: Model;
    before(async () => {
      model = await loadModel(demo);
    });
    after(() => model.dispose());

    /** What the library answers to these messages, turn by turn. */
    async function answers(contents: readonly string[], conversation: ChatMessage[] = []): Promise<string[]> {
      const texts: string[] = [];
      for (const content of contents) {
        conversation.push({ role: 'user', content });
        const { text } = await model.chat(conversation, sampling).result();
        conversation.push({ role: 'assistant', content: text });
        texts.push(text);
      }
      return texts;
    }

    const printed = (texts: readonly string[]) => texts.map((text) => `${text}\n`).join('');
    const chat = (input: string, ...options: string[]) => qwen2(['chat', demo, ...hot, ...options], input);

    it('every line is a message, all at once or not, and gets an answer that knows those before', async () => {
      const lines = Array.from({ length: 12 }, (_, i) => `Message ${i} of many`);
      const { code, stdout } = await chat(`${lines.join('\n')}\n`);
      assert.deepEqual([code, stdout], [0, printed(await answers(lines))]);
    });

    it('the last line needs no newline; empty lines are none; stdout has answers only', async () => {
      const { code, stdout, stderr } = await chat('\n  \nHello\n\nAgain');
      assert.deepEqual([code, stdout], [0, printed(await answers(['Hello', 'Again']))]);
      assert.equal(stderr, '(cut: the token limit is reached)\n'.repeat(2));
    });

    it('an empty pipe is an empty conversation', async () => {
      assert.deepEqual(await chat(''), { code: 0, stdout: '', stderr: '' });
    });

    const multiline: Record<string, [input: string, messages: string[]]> = {
      'joins lines': ['one\\\ntwo\\\nthree\nfour\n', ['one\ntwo\nthree', 'four']],
      'at the end of the input ends the message': ['one\\', ['one\n']],
    };
    for (const [title, [input, messages]] of Object.entries(multiline))
      it(`a backslash ${title}`, async () => {
        assert.equal((await chat(input)).stdout, printed(await answers(messages)));
      });

    it('/clear begins anew, but keeps the system message', async () => {
      const content = 'It was a cold morning';
      const system: ChatMessage = { role: 'system', content: 'You know all of London.' };
      const anew = await answers([content, 'Again'], [system]);
      assert.notEqual(anew[0], (await answers([content]))[0], 'the system message has an effect');
      const { stdout } = await chat(`${content}\n/clear\n${content}\nAgain\n`, '--system', system.content);
      assert.equal(stdout, printed([anew[0]!, ...anew]));
    });

    it('/help explains itself on stderr', async () => {
      const { code, stdout, stderr } = await chat('/help\n');
      assert.deepEqual([code, stdout], [0, '']);
      for (const word of ['/clear', '/exit', 'Ctrl-D', 'Ctrl-C', '\\']) assert.ok(stderr.includes(word), stderr);
    });

    it('an unknown command is said to be one, answered by nobody, and makes the exit code 1', async () => {
      const { code, stdout, stderr } = await chat('/quit\nHello\n');
      assert.deepEqual([code, stdout], [1, printed(await answers(['Hello']))]);
      assert.match(stderr, /no command \/quit; \/help/);
    });

    it('a path is no command', async () => {
      assert.equal((await chat('/etc/passwd is a file\n')).stdout, printed(await answers(['/etc/passwd is a file'])));
    });

    it('/exit leaves the rest unread', async () => {
      const { code, stdout } = await chat('Hello\n/exit\nAgain\n');
      assert.deepEqual([code, stdout], [0, printed(await answers(['Hello']))]);
    });

    describe('that is longer than the context', () => {
      const contextLength = 200;
      const narrow = ['--context-length', String(contextLength)];
      /** 40 tokens and more. */
      const lines = Array.from({ length: 6 }, (_, i) =>
        `It was a cold morning number ${i} of the early spring. `.repeat(2),
      );

      it('forgets as many of the oldest turns as the answer needs, and says so', async () => {
        const conversation: ChatMessage[] = [{ role: 'system', content: 'Be brief.' }];
        const expected: string[] = [];
        let forgotten = 0;
        for (const content of lines) {
          conversation.push({ role: 'user', content });
          while ((await model.tokenizer.encodeChat(conversation)).length + 8 > contextLength) {
            conversation.splice(1, 2);
            forgotten++;
          }
          conversation.pop();
          expected.push(...(await answers([content], conversation)));
        }
        assert.ok(forgotten >= 3, 'the case is what it says');
        const { code, stdout, stderr } = await chat(lines.join('\n'), ...narrow, '--system', 'Be brief.');
        assert.deepEqual([code, stdout], [0, printed(expected)]);
        assert.equal(stderr.match(/the oldest turn is forgotten/g)?.length, forgotten);
      });

      it('keeps a quarter of the context for an answer without --max-tokens', async () => {
        const conversation: ChatMessage[] = [{ role: 'user', content: 'Hello' }];
        const { text } = await model.chat(conversation, { temperature: 0, stop: '.' }).result();
        conversation.push({ role: 'assistant', content: text }, { role: 'user', content: lines[0]! });
        const { length } = await model.tokenizer.encodeChat(conversation);
        let context = length;
        while (length > context - Math.ceil(context / 4)) context++;
        const forgets = async (tokens: number) => {
          const options = ['-t', '0', '--stop', '.', '--context-length', String(tokens)];
          const { code, stderr } = await qwen2(['chat', demo, ...options], `Hello\n${lines[0]}\n`);
          assert.equal(code, 0, stderr);
          return stderr.includes('forgotten');
        };
        assert.deepEqual([await forgets(context), await forgets(context - 1)], [false, true]);
      });

      it('refuses a message that does not fit by itself, keeps the conversation, and exits with 1', async () => {
        const { code, stdout, stderr } = await chat(`Hello\n${'far too long '.repeat(100)}\nAgain\n`, ...narrow);
        assert.deepEqual([code, stdout], [1, printed(await answers(['Hello', 'Again']))]);
        assert.match(stderr, /The prompt has \d+ tokens.*larger --context-length \[context_overflow\]/);
        assert.doesNotMatch(stderr, /forgotten/);
      });
    });

    const failures: Record<string, { args: string[]; code: number; says: RegExp }> = {
      'a wrong option': { args: [demo, '--top-p', '2'], code: 2, says: /--top-p is 2/ },
      'no folder': { args: [], code: 2, says: /missing required argument 'folder'/ },
      'an unknown folder': { args: ['/nowhere'], code: 1, says: /no folder \/nowhere/ },
      'a model without a tokenizer': { args: [withoutTokenizer], code: 1, says: /no tokenizer/ },
    };
    for (const [title, { args, code, says }] of Object.entries(failures))
      it(`${title} exits with ${code} before any answer`, async () => {
        const outcome = await qwen2(['chat', ...args], 'Hello\n');
        assert.deepEqual([outcome.code, outcome.stdout], [code, '']);
        assert.match(outcome.stderr, says);
      });

    it('a model without a chat template is pointed to generate', async () => {
      await withDemoCopy({ 'tokenizer_config.json': {} }, async (folder) => {
        const { code, stdout, stderr } = await qwen2(['chat', folder], 'Hello\n');
        assert.deepEqual([code, stdout], [1, '']);
        assert.match(stderr, /no chat template; 'qwen2 generate'/);
      });
    });
  });

  describe('on a terminal', () => {
    let terminal: Terminal;
    afterEach(() => terminal.close());

    async function open(...options: string[]): Promise<void> {
      terminal = new Terminal(['chat', demo, '-t', '0', ...options]);
      await terminal.waitFor(/\/help lists the commands; Ctrl-D leaves/);
      await terminal.waitFor(/> /);
    }

    async function say(line: string): Promise<void> {
      terminal.type(line + keys.enter);
      await terminal.waitFor(/\n/);
    }

    it('talks turn by turn, and Ctrl-D leaves with 0', async () => {
      await open('-n', '8');
      for (const line of ['Hello', 'Again']) {
        await say(line);
        const answer = await terminal.waitFor(/\(cut: the token limit is reached\)/);
        assert.ok(answer.trim().length > 10, answer);
        await terminal.waitFor(/> /);
      }
      terminal.type(keys.ctrlD);
      assert.equal(await terminal.exitCode(), 0);
    });

    it('Ctrl-C stops an answer; the session goes on', async () => {
      await open('--ignore-eos');
      await say('Hello');
      await terminal.waitFor(/\w+ \w+ \w+/);
      terminal.type(keys.ctrlC);
      await terminal.waitFor(/\(stopped\)/);
      await terminal.waitFor(/> /);
      await say('/clear');
      await terminal.waitFor(/A new conversation/);
      await say('/exit');
      assert.equal(await terminal.exitCode(), 0);
    });

    it('Ctrl-C at the prompt drops what was typed and says how to leave', async () => {
      await open('-n', '8');
      terminal.type(`${'unfinished\\'}${keys.enter}half a line`);
      await terminal.waitFor(/… [\s\S]*half a line/);
      terminal.type(keys.ctrlC);
      await terminal.waitFor(/\/exit or Ctrl-D leaves/);
      await terminal.waitFor(/> /);
      await say('/exit');
      assert.equal(await terminal.exitCode(), 0, '/exit was the whole line');
    });

    it('an error does not end the session', async () => {
      await open('-n', '8', '--context-length', '60');
      await say('far too long '.repeat(50));
      await terminal.waitFor(/\[context_overflow\]/);
      await say('Hello');
      await terminal.waitFor(/\(cut: the token limit is reached\)/);
      terminal.type(keys.ctrlD);
      assert.equal(await terminal.exitCode(), 0);
    });
  });
});
