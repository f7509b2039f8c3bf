import assert from 'node:assert/strict';
import { loadModel } from '../../lib/generation/loadModel.js';
import type { Model } from '../../lib/generation/model.js';
import { Qwen2Error } from '../../lib/native/errors.js';
import { demoFolder, fixtureFolder } from '../support/checkpoints.js';

interface BadInput {
  title: string;
  /** Called as a program without types might call it. */
  // biome-ignore lint/suspicious/noExplicitAny: what is under test are arguments of the wrong type
  call: (model: any) => unknown;
  code: string;
  /** What the message must say: what was asked, what was found, what to do. */
  words: string[];
}

const ids = (count: number, id = 1) => new Array<number>(count).fill(id);
const user = (content: unknown) => [{ role: 'user', content }];

/** Of a context of 64 tokens and a vocabulary of 2048. */
const badInputs: BadInput[] = [
  ...[undefined, null, 5, {}, { tokens: 'abc' }, { ids: [1] }].map((prompt) => ({
    title: `a prompt that is ${JSON.stringify(prompt)}`,
    call: (model: Model) => model.generate(prompt as never),
    code: 'invalid_argument',
    words: ['prompt', 'string', '{ tokens'],
  })),
  ...(
    [
      ['beyond the vocabulary', [1, 2048], ['Token 1', '2048', '2047']],
      ['negative', [-1], ['Token 0', '-1']],
      ['a fraction', [1, 2, 0.5], ['Token 2', '0.5', 'whole']],
      ['text', ['1'], ['Token 0', '1']],
      ['NaN', [Number.NaN], ['Token 0', 'NaN']],
      ['missing', [1, undefined, 2], ['Token 1', 'undefined']],
    ] as [string, (number | undefined)[], string[]][]
  ).flatMap(([title, tokens, words]) =>
    [
      {
        title: `an id that is ${title}, to generate`,
        call: (model: Model) => model.generate({ tokens: tokens as number[] }),
      },
      {
        title: `an id that is ${title}, to score`,
        call: (model: Model) => model.score({ tokens: tokens as number[] }),
      },
      { title: `an id that is ${title}, to logits`, call: (model: Model) => model.logits(tokens as number[]) },
    ].map((input) => ({ ...input, code: 'invalid_argument', words })),
  ),
  ...[
    { title: 'no text', call: (model: Model) => model.generate('') },
    { title: 'no tokens', call: (model: Model) => model.generate({ tokens: [] }) },
    { title: 'no tokens to score', call: (model: Model) => model.score({ tokens: [] }) },
    { title: 'no tokens to logits', call: (model: Model) => model.logits([]) },
  ].map((input) => ({ ...input, code: 'invalid_argument', words: ['no tokens', 'one at least'] })),
  ...[
    { title: 'a prompt as long as the context', call: (model: Model) => model.generate({ tokens: ids(64) }) },
    { title: 'logits of as many tokens', call: (model: Model) => model.logits(ids(64)) },
    { title: 'a score of as many', call: (model: Model) => model.score({ tokens: ids(64) }) },
  ].map((input) => ({ ...input, code: 'context_overflow', words: ['64 tokens', 'context is 64', 'contextLength'] })),
  {
    title: 'a conversation that is too long',
    call: (model) => model.chat(user('word '.repeat(100))),
    code: 'context_overflow',
    words: ['context is 64', 'shorten'],
  },
  {
    title: 'an unknown parameter',
    call: (model) => model.generate('a', { max_tokens: 5 }),
    code: 'invalid_argument',
    words: ['"max_tokens"', 'did you mean maxTokens?'],
  },
  {
    title: 'a parameter out of range, in chat',
    call: (model) => model.chat(user('a'), { topP: 2 }),
    code: 'invalid_argument',
    words: ['topP', '2', 'at most 1'],
  },
  {
    title: 'too many alternatives',
    call: (model) => model.generate('a', { logprobs: 21 }),
    code: 'invalid_argument',
    words: ['logprobs', '21', '20'],
  },
  {
    title: 'a stop token beyond the vocabulary',
    call: (model) => model.generate('a', { stopTokenIds: [2048] }),
    code: 'invalid_argument',
    words: ['stopTokenIds[0]', '2048', '2047'],
  },
  {
    title: 'a bias beyond the vocabulary',
    call: (model) => model.generate('a', { logitBias: { 2048: 1 } }),
    code: 'invalid_argument',
    words: ['logitBias', '2048', '2047'],
  },
  ...[null, 5, 'fast'].flatMap((options) =>
    [
      (model: Model) => model.generate('a', options as never),
      (model: Model) => model.chat([{ role: 'user', content: 'a' }], options as never),
      (model: Model) => model.logits([1], options as never),
      (model: Model) => model.score('a', options as never),
    ].map((call, i) => ({
      title: `options that are ${JSON.stringify(options)}, to ${['generate', 'chat', 'logits', 'score'][i]}`,
      call,
      code: 'invalid_argument',
      words: ['options', 'object', String(options)],
    })),
  ),
  {
    title: 'a signal that is none',
    call: (model) => model.generate('a', { signal: new AbortController() }),
    code: 'invalid_argument',
    words: ['signal', 'AbortSignal'],
  },
  ...[
    { title: 'no messages', messages: [], words: ['messages'] },
    { title: 'messages that are text', messages: 'hello', words: ['messages'] },
    { title: 'a message without a role', messages: [{ content: 'a' }], words: ['messages[0].role'] },
    { title: 'a message that is not text', messages: user(5), words: ['messages[0].content', 'number'] },
  ].map(({ title, messages, words }) => ({
    title,
    call: (model: Model) => model.chat(messages as never),
    code: 'invalid_argument',
    words,
  })),
];

/** Of a model without tokenizer files. */
const withoutTokenizer: BadInput[] = [
  { title: 'text', call: (model) => model.generate('a'), code: 'unsupported', words: ['tokenizer.json', '{ tokens'] },
  { title: 'text to score', call: (model) => model.score('a'), code: 'unsupported', words: ['tokenizer.json'] },
  { title: 'chat', call: (model) => model.chat(user('a')), code: 'unsupported', words: ['tokenizer.json'] },
  { title: 'its tokenizer', call: (model) => model.tokenizer, code: 'unsupported', words: ['tokenizer.json'] },
  {
    title: 'stop strings',
    call: (model) => model.generate({ tokens: [1] }, { stop: 'a' }),
    code: 'invalid_argument',
    words: ['stop', 'tokenizer', 'stopTokenIds'],
  },
];

describe('bad input', () => {
  for (const [title, folder, inputs] of [
    ['of a model', demoFolder, badInputs],
    ['of a model without a tokenizer', fixtureFolder('qwen2-tied'), withoutTokenizer],
  ] as const)
    describe(title, () => {
      let model: Model;
      before(async () => {
        model = await loadModel(folder, { device: 'cpu', contextLength: 64 });
      });
      after(() => model.dispose());

      for (const { title, call, code, words } of inputs)
        it(`${title}: ${code}`, () => assertRejects(() => call(model), code, words));

      it('leaves the model as it was', async () => {
        const { finishReason } = await model.generate({ tokens: ids(63) }, { ignoreEos: true }).result();
        assert.equal(finishReason, 'length');
      });
    });
});

/** A call may throw at once, reject, or return a generation whose result rejects: with the one error type. */
async function assertRejects(call: () => unknown, code: string, words: string[]): Promise<void> {
  const outcome = async () => {
    const returned = (await call()) as { result?: () => Promise<unknown> } | undefined;
    await returned?.result?.();
  };
  await assert.rejects(outcome, (error) => {
    assert.ok(error instanceof Qwen2Error, String(error));
    assert.equal(error.code, code, error.message);
    for (const word of words) assert.ok(error.message.includes(word), `"${error.message}" lacks "${word}"`);
    return true;
  });
}
