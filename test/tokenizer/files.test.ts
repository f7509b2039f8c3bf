import assert from 'node:assert/strict';
import type { Tokenizer } from '../../lib/tokenizer/tokenizer.js';
import { editedDemoFiles, type FileEdit, withTokenizer } from '../support/tokenizers.js';

const withEdited = async <T>(edit: FileEdit, use: (tokenizer: Tokenizer) => Promise<T>) =>
  withTokenizer(await editedDemoFiles(edit), use);

const text = 'To Sherlock Holmes she is always the woman.\n  e\u0301 <|im_end|>';

describe('tokenizer files', () => {
  it('may leave gaps among the ids, which decode to nothing', () =>
    withEdited(
      ({ model, added_tokens }) => {
        assert.equal(model.merges.pop(), 'out h');
        assert.equal(model.vocab.outh, 2044);
        delete model.vocab.outh;
        added_tokens[2].id = 2100;
      },
      async (tokenizer) => {
        assert.equal(tokenizer.vocabularySize, 2101);
        assert.equal(tokenizer.decode([2044, 2047, 2099], { skipSpecial: false }), '');
        assert.equal(tokenizer.decode([2044, 2100], { skipSpecial: false }), '<|im_end|>');
        assert.equal(tokenizer.decode(await tokenizer.encode('mouth')), 'mouth');
      },
    ));

  it('may spell a merge as a pair, as newer ones do', async () => {
    const encode = (tokenizer: Tokenizer) => tokenizer.encode(text);
    const pairs = await withEdited(({ model }) => {
      model.merges = model.merges.map((merge: string) => merge.split(' '));
    }, encode);
    assert.deepEqual(pairs, await withEdited(() => {}, encode));
  });

  it('may normalize nothing', () =>
    withEdited(
      (tokenizer) => {
        tokenizer.normalizer = null;
      },
      async (tokenizer) => assert.equal(tokenizer.decode(await tokenizer.encode(text)), text),
    ));

  it('may know an added token in tokenizer_config.json alone', () =>
    withEdited(
      ({ added_tokens }) => added_tokens.pop(),
      async (tokenizer) => {
        assert.equal(tokenizer.tokenId('<|im_end|>'), 2047);
        assert.deepEqual([...tokenizer.specialIds].sort(), [2045, 2046, 2047]);
      },
    ));

  it('may have added tokens that are text: found in every text, longest first, and never skipped', () =>
    withEdited(
      ({ added_tokens }) =>
        added_tokens.push(
          { id: 2050, content: '<tool>', special: false, normalized: false },
          { id: 2051, content: '<tool><call>', special: false, normalized: false },
          { id: 2052, content: 'caf\u00e9', special: false, normalized: true },
        ),
      async (tokenizer) => {
        const ids = await tokenizer.encode('<tool><tool><call>cafe\u0301');
        assert.deepEqual(ids, [2050, 2051, 2052]);
        assert.equal(tokenizer.decode(ids), '<tool><tool><call>caf\u00e9');
        assert.equal(tokenizer.specialIds.has(2050), false);
      },
    ));
});
