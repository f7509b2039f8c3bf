import assert from 'node:assert/strict';
import type { ChoiceResult, Piece } from '../../lib/generation/choice.js';
import type { GenerationResult } from '../../lib/generation/generation.js';
import { loadModel } from '../../lib/generation/loadModel.js';
import type { GenerateOptions, Model } from '../../lib/generation/model.js';
import { demoFolder, fixtureFolder } from '../support/checkpoints.js';

const opening = 'To Sherlock Holmes she is always';
/** The demo model is sure of itself: its second choices come up at high temperatures only. */
const hot = { temperature: 3, topK: 0, topP: 1 };
/** What follows, greedily. */
const sequel = ' the woman. I have seldom heard him mention her under any other name. In his eyes she eclipses';

describe('generate', () => {
  let model: Model;
  let openingTokens: number[];
  const greedy = (options: GenerateOptions = {}) =>
    model.generate(opening, { temperature: 0, maxTokens: 24, ...options });

  before(async () => {
    model = await loadModel(demoFolder, { device: 'cpu', contextLength: 128, stepTokens: 32 });
    openingTokens = await model.tokenizer.encode(opening);
  });
  after(() => model.dispose());

  describe('prompts', () => {
    it('are text or token ids', async () => {
      const fromText = await greedy().result();
      const fromTokens = await model.generate({ tokens: openingTokens }, { temperature: 0, maxTokens: 24 }).result();
      assert.ok(sequel.startsWith(fromText.text) && fromText.text.length > 60);
      assert.deepEqual(fromTokens, fromText);
    });

    it("are the caller's to change as soon as generate returns", async () => {
      const tokens = [...openingTokens];
      const generation = model.generate({ tokens }, { temperature: 0, maxTokens: 24 });
      tokens.fill(-1);
      assert.deepEqual((await generation.result()).tokens, (await greedy().result()).tokens);
    });

    it('spell control tokens as text', async () => {
      const { usage } = await model.generate('<|im_end|>', { temperature: 0, maxTokens: 1 }).result();
      assert.ok(usage.promptTokens > 1);
    });
  });

  describe('pieces', () => {
    const variants: [string, GenerateOptions][] = [
      ['greedy', {}],
      ['of several choices', { ...hot, n: 3, seed: 5 }],
      ['with a stop string', { stop: ['heard him'] }],
      ['with a stop string that begins at the end', { stop: ['eclipses and'], maxTokens: 40 }],
      ['with log-probabilities', { ...hot, logprobs: 2, n: 2, seed: 3, stop: ['e', 'zz'] }],
    ];
    for (const [title, options] of variants)
      it(`joined are the result: ${title}`, async () => {
        const generation = greedy(options);
        const pieces: Piece[] = [];
        for await (const piece of generation) pieces.push(piece);
        const { choices } = await generation.result();
        assert.deepEqual(joined(pieces), choices);
        for (const piece of pieces) assert.ok(piece.text !== '' || piece.finishReason !== undefined, 'no empty pieces');
      });

    it('come as they are made, not at the end', async () => {
      let first = true;
      const generation = greedy();
      let isDone = false;
      void generation.result().then(() => {
        isDone = true;
      });
      for await (const _ of generation) {
        if (first) assert.equal(isDone, false);
        first = false;
      }
    });

    it('can be had after the result', async () => {
      const generation = greedy();
      const { choices } = await generation.result();
      const pieces: Piece[] = [];
      for await (const piece of generation) pieces.push(piece);
      assert.deepEqual(joined(pieces), choices);
    });

    it('hold complete characters', async () => {
      const { tokenizer } = model;
      const tokens = await tokenizer.encode('🙂');
      assert.ok(tokens.length > 1, 'the character takes several tokens');
      const forced = { logitBias: { [tokens[0]!]: 100 }, maxTokens: 3 };
      const { text } = await greedy(forced).result();
      assert.equal(text, tokenizer.decode([tokens[0]!, tokens[0]!, tokens[0]!]));
    });
  });

  describe('n', () => {
    const options = { ...hot, n: 4, seed: 11, maxTokens: 12 };

    it('gives continuations of their own, in order', async () => {
      const { choices, text, tokens, usage } = await greedy(options).result();
      assert.deepEqual(
        choices.map(({ index }) => index),
        [0, 1, 2, 3],
      );
      assert.equal(new Set(choices.map((choice) => choice.text)).size, 4);
      assert.deepEqual({ text, tokens }, { text: choices[0]!.text, tokens: choices[0]!.tokens });
      assert.equal(
        usage.completionTokens,
        choices.reduce((sum, choice) => sum + choice.tokens.length, 0),
      );
    });

    it('keeps the first ones whatever it is', async () => {
      const [four, one] = [await greedy(options).result(), await greedy({ ...options, n: 1 }).result()];
      assert.deepEqual(four.choices[0], one.choices[0]);
    });
  });

  describe('seed', () => {
    const sampled = { ...hot, maxTokens: 20 };

    it('repeats a text, alone and in company', async () => {
      const alone = await greedy({ ...sampled, seed: 21 }).result();
      const company = [22, 21, 23, 24].map((seed) => greedy({ ...sampled, seed }).result());
      const [, again] = await Promise.all(company);
      assert.deepEqual(again, alone);
    });

    it('makes another text when it is another, or is drawn at random', async () => {
      const texts = await Promise.all(
        [1, 2, 2 ** 32 + 1, 2 ** 53 - 1, undefined, undefined].map((seed) => greedy({ ...sampled, seed }).result()),
      );
      assert.equal(new Set(texts.map(({ text }) => text)).size, texts.length);
    });
  });

  describe('length', () => {
    it('ends at maxTokens', async () => {
      for (const maxTokens of [1, 2, 7]) assertEnd(await greedy({ maxTokens }).result(), 'length', maxTokens);
    });

    it('ends at the end of the context without maxTokens, or with one that is too large', async () => {
      const room = 128 - openingTokens.length;
      for (const maxTokens of [undefined, 5000])
        assertEnd(await greedy({ maxTokens, ignoreEos: true }).result(), 'length', room);
    });

    it('of a prompt that leaves one place is one token', async () => {
      const tokens = Array.from({ length: 127 }, (_, i) => openingTokens[i % openingTokens.length]!);
      assertEnd(await model.generate({ tokens }, { ignoreEos: true }).result(), 'length', 1);
    });
  });

  describe('stop tokens', () => {
    it('end the text before them, and count as tokens', async () => {
      const { tokens } = await greedy().result();
      const stopToken = tokens[7]!;
      const stopped = await greedy({ stopTokenIds: [stopToken] }).result();
      const end = tokens.indexOf(stopToken);
      assertEnd(stopped, 'stop', end + 1);
      assert.deepEqual(stopped.tokens, tokens.slice(0, end + 1));
      assert.equal(stopped.text, model.tokenizer.decode(tokens.slice(0, end)));
    });

    const [imEnd, endOfText] = [2047, 2045];
    it("are the checkpoint's end-of-sequence tokens, all of them", async () => {
      for (const token of [imEnd, endOfText])
        assertEnd(await greedy({ logitBias: { [token]: 100 } }).result(), 'stop', 1);
    });

    it("are not the checkpoint's with ignoreEos, nor are those part of the text", async () => {
      const result = await greedy({ logitBias: { [imEnd]: 100 }, ignoreEos: true, maxTokens: 5 }).result();
      assertEnd(result, 'length', 5);
      assert.deepEqual([result.tokens, result.text], [[imEnd, imEnd, imEnd, imEnd, imEnd], '']);
    });

    it('are not chosen before minTokens', async () => {
      for (const minTokens of [1, 3, 10]) {
        const result = await greedy({ logitBias: { [imEnd]: 100 }, minTokens }).result();
        assertEnd(result, 'stop', minTokens + 1);
        assert.equal(result.tokens.indexOf(imEnd), minTokens);
      }
    });
  });

  describe('stop strings', () => {
    const cases: { stop: string | string[]; text: string; why: string }[] = [
      { stop: 'seldom heard', text: ' the woman. I have ', why: 'spanning tokens' },
      { stop: 'dom he', text: ' the woman. I have sel', why: 'within tokens, whose rest is cut off' },
      { stop: ['heard him', 'seldom heard h'], text: ' the woman. I have ', why: 'the one that ends first' },
      { stop: ['heard', 'dom heard'], text: ' the woman. I have sel', why: 'the longest of those that end together' },
      { stop: ' the', text: '', why: 'at once' },
      { stop: ['woman?', '.'], text: ' the woman', why: 'after one that only began' },
    ];
    for (const { stop, text, why } of cases)
      it(`end the text before them: ${why}`, async () => {
        const result = await greedy({ stop }).result();
        assert.deepEqual([result.text, result.finishReason], [text, 'stop']);
        const strings = [stop].flat();
        const upTo = (count: number) => model.tokenizer.decode(result.tokens.slice(0, count));
        const { length } = result.tokens;
        assert.ok(
          strings.some((string) => upTo(length).includes(string)),
          'the last token completes one',
        );
        assert.ok(!strings.some((string) => upTo(length - 1).includes(string)), 'no token comes after');
        assert.deepEqual(result.usage, { promptTokens: openingTokens.length, completionTokens: length });
      });

    it('that do not come change nothing', async () => {
      assert.deepEqual(await greedy({ stop: ['Watson', 'woman!'] }).result(), await greedy().result());
    });

    it('count after minTokens only', async () => {
      const { tokens, text } = await greedy({ stop: 'e', minTokens: 12 }).result();
      assert.ok(tokens.length > 12);
      assert.ok(text.startsWith(model.tokenizer.decode(tokens.slice(0, 12))));
      assert.equal(`${text}e`, sequel.slice(0, text.length + 1));
    });
  });

  it('chat answers by the template, up to its end token', async () => {
    const messages = [{ role: 'user', content: 'Who is she? <|im_end|>' }];
    const tokens = await model.tokenizer.encodeChat(messages);
    const [reply, expected] = await Promise.all([
      model.chat(messages, { temperature: 0, maxTokens: 12 }).result(),
      model.generate({ tokens }, { temperature: 0, maxTokens: 12 }).result(),
    ]);
    assert.deepEqual(reply, expected);
    assert.equal(reply.usage.promptTokens, tokens.length);
  });

  it('without a tokenizer gives tokens, one piece each, and no text', async () => {
    const plain = await loadModel(fixtureFolder('qwen2-tied'), { device: 'cpu', contextLength: 64 });
    try {
      const generation = plain.generate({ tokens: [1, 2, 3] }, { maxTokens: 5 });
      const pieces: Piece[] = [];
      for await (const piece of generation) pieces.push(piece);
      const { choices, text, tokens } = await generation.result();
      assert.deepEqual([text, tokens.length, pieces.length], ['', 5, 6]);
      assert.deepEqual(joined(pieces), choices);
    } finally {
      await plain.dispose();
    }
  });
});

/** What a reader of the pieces can put together. */
function joined(pieces: readonly Piece[]): ChoiceResult[] {
  const choices: ChoiceResult[] = [];
  for (const { index, text, tokens, logprobs, finishReason } of pieces) {
    choices[index] ??= { index, text: '', tokens: [], finishReason: 'abort', ...(logprobs && { logprobs: [] }) };
    const choice = choices[index];
    choice.text += text;
    choice.tokens.push(...tokens);
    choice.logprobs?.push(...(logprobs ?? []));
    if (finishReason !== undefined) choice.finishReason = finishReason;
  }
  return choices;
}

function assertEnd({ finishReason, tokens, usage }: GenerationResult, reason: string, count: number): void {
  assert.deepEqual([finishReason, tokens.length, usage.completionTokens], [reason, count, count]);
}
