import assert from 'node:assert/strict';
import type { ChatMessage } from '../../lib/tokenizer/chatTemplate.js';
import { qwen2File, qwen2OfSuite } from '../support/tokenizers.js';

interface Vector {
  text: string;
  ids: number[];
  /** Whether control tokens in the text become their ids; absent: they do. */
  parse_special?: boolean;
}

interface Rendering {
  name: string;
  messages: ChatMessage[];
  add_generation_prompt: boolean;
  text: string;
}

describe("Qwen2's own tokenizer", () => {
  const tokenizer = qwen2OfSuite();

  for (const [file, origin] of [
    ['vectors.json', 'implementations have published'],
    ['agreed.json', 'several implementations agree on'],
  ] as const)
    it(`gives the ids that ${origin}`, async function () {
      const vectors: Vector[] = JSON.parse(await qwen2File(this, file));
      assert.ok(vectors.length >= 100, 'the file is whole');
      for (const { text, ids, parse_special: parseSpecial = true } of vectors)
        assert.deepEqual(await tokenizer().encode(text, { parseSpecial }), ids, JSON.stringify(text));
    });

  it('gives back the texts', async function () {
    const vectors: Vector[] = JSON.parse(await qwen2File(this, 'vectors.json'));
    for (const { text, ids } of vectors)
      assert.equal(tokenizer().decode(ids, { skipSpecial: false }), text.normalize('NFC'));
  });

  it('renders conversations as Hugging Face does, and encodes what it renders', async function () {
    const renderings: Rendering[] = JSON.parse(await qwen2File(this, 'chat.json'));
    assert.ok(renderings.length >= 6, 'the file is whole');
    for (const { name, messages, add_generation_prompt: addGenerationPrompt, text } of renderings) {
      assert.equal(await tokenizer().applyChatTemplate(messages, { addGenerationPrompt }), text, name);
      const ids = await tokenizer().encodeChat(messages, { addGenerationPrompt });
      assert.equal(tokenizer().decode(ids, { skipSpecial: false }), text.normalize('NFC'), name);
    }
  });

  it('has the published ids of control tokens', () => {
    const contents = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];
    assert.deepEqual(
      contents.map((content) => tokenizer().tokenId(content)),
      [151_643, 151_644, 151_645],
    );
    assert.equal(tokenizer().vocabularySize, 151_646);
    assert.equal(tokenizer().tokenId('the'), undefined);
  });
});
