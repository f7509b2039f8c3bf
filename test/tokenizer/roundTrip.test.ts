import assert from 'node:assert/strict';
import { assertRejectsQwen2 } from '../support/errors.js';
import { Random } from '../support/random.js';
import { randomText, textKinds } from '../support/randomText.js';
import { tokenizerFolders, tokenizerOfSuite } from '../support/tokenizers.js';

/** What Hugging Face's tokenizer turns a text into before it cuts it: valid UTF-8 in normalization form C. */
const normalized = (text: string) => Buffer.from(text).toString().normalize('NFC');

for (const { name, folder } of tokenizerFolders)
  describe(`encode and decode with the tokenizer of ${name}`, () => {
    const tokenizer = tokenizerOfSuite(folder);

    const assertRoundTrip = async (text: string) => {
      const ids = await tokenizer().encode(text);
      assert.equal(tokenizer().decode(ids, { skipSpecial: false }), normalized(text), JSON.stringify(text));
      const special = ids.filter((id) => tokenizer().specialIds.has(id));
      assert.deepEqual(special, [], `control tokens out of plain text: ${JSON.stringify(text)}`);
    };

    for (const [seed, kind] of textKinds.entries())
      it(`give back ${kind}`, async () => {
        const random = new Random(seed);
        for (let i = 0; i < 40; i++) await assertRoundTrip(randomText(random, random.integer(1, 30), [kind]));
      });

    it('give back any mixture', async () => {
      const random = new Random(100);
      for (let i = 0; i < 60; i++) await assertRoundTrip(randomText(random, random.integer(1, 60)));
    });

    it('give back every code point', async () => {
      for (let from = 0; from <= 0x10ffff; from += 0x8000) {
        const all = Array.from({ length: 0x8000 }, (_, i) => String.fromCodePoint(from + i));
        await assertRoundTrip(all.join(' '));
      }
    });

    it('give back a text of several megabytes, which reaches the thread in parts', async () => {
      // 21 characters of which 10 are surrogate pairs: some parts end within a pair.
      const text = `,${'😀'.repeat(10)}`.repeat(150_000);
      assert.equal(tokenizer().decode(await tokenizer().encode(text)), text);
    });

    it('make nothing of nothing', async () => {
      assert.deepEqual(await tokenizer().encode(''), []);
      assert.equal(tokenizer().decode([]), '');
    });

    it('find control tokens in a text if asked', async () => {
      const [start, end] = [tokenizer().tokenId('<|im_start|>')!, tokenizer().tokenId('<|im_end|>')!];
      const parse = (text: string) => tokenizer().encode(text, { parseSpecial: true });
      assert.deepEqual(await parse('<|im_start|><|im_end|><|im_end|>'), [start, end, end]);
      const around = [...(await tokenizer().encode('a\r\n')), start, ...(await tokenizer().encode(' e\u0301 '))];
      assert.deepEqual(await parse('a\r\n<|im_start|> e\u0301 '), around);
      for (const text of ['<|im_start|', '|im_start|>', '<|IM_START|>', '<|im_ start|>'])
        assert.deepEqual(await parse(text), await tokenizer().encode(text), text);
    });

    it('refuse what is no text', async () => {
      for (const [value, word] of [
        [undefined, 'undefined'],
        [null, 'null'],
        [7, 'number'],
        [['a'], 'object'],
      ] as const)
        await assertRejectsQwen2(tokenizer().encode(value as unknown as string), 'invalid_argument', 'string', word);
    });
  });
