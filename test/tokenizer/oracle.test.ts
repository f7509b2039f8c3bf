import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Tokenizer as Library } from '@huggingface/tokenizers';
import { Random } from '../support/random.js';
import { randomText, textKinds } from '../support/randomText.js';
import { skipWithout, tokenizerFolders, tokenizerOfSuite } from '../support/tokenizers.js';

for (const { name, folder } of tokenizerFolders)
  describe(`encoding with the tokenizer of ${name}`, () => {
    const tokenizer = tokenizerOfSuite(folder);
    let library: Library;

    before(async function () {
      skipWithout(this, folder);
      const read = async (file: string) => JSON.parse(await readFile(join(folder, file), 'utf8'));
      library = new Library(await read('tokenizer.json'), await read('tokenizer_config.json'));
    });

    const assertAgree = async (text: string) => {
      const ids = await tokenizer().encode(text, { parseSpecial: true });
      const expected = library.encode(text, { add_special_tokens: false }).ids;
      assert.deepEqual(ids, expected, JSON.stringify(text));
    };

    for (const [seed, kind] of textKinds.entries())
      it(`agrees with Hugging Face's library on ${kind}`, async () => {
        const random = new Random(200 + seed);
        for (let i = 0; i < 40; i++) await assertAgree(randomText(random, random.integer(1, 30), [kind]));
      });

    it("agrees with Hugging Face's library on any mixture", async () => {
      const random = new Random(300);
      for (let i = 0; i < 80; i++) await assertAgree(randomText(random, random.integer(1, 60)));
    });
  });
