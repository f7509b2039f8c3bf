import assert from 'node:assert/strict';
import type { Tokenizer } from '../../lib/tokenizer/tokenizer.js';
import { assertThrowsQwen2 } from '../support/errors.js';
import { Random } from '../support/random.js';
import { randomText } from '../support/randomText.js';
import { tokenizerFolders, tokenizerOfSuite } from '../support/tokenizers.js';

/** Half a character never leaves a stream: what it holds back is at most three bytes, each one U+FFFD at worst. */
const heldBack = /^\ufffd{0,3}$/;

/** Streams ids, compares with decode() after every one, and returns the pieces. */
function assertStreams(tokenizer: Tokenizer, ids: readonly number[], skipSpecial: boolean): string[] {
  const stream = tokenizer.stream({ skipSpecial });
  const pieces: string[] = [];
  let text = '';
  for (const [i, id] of ids.entries()) {
    const piece = stream.push(id);
    pieces.push(piece);
    text += piece;
    const whole = tokenizer.decode(ids.slice(0, i + 1), { skipSpecial });
    assert.ok(whole.startsWith(text) && heldBack.test(whole.slice(text.length)), `after ${ids.slice(0, i + 1)}`);
  }
  pieces.push(stream.end());
  assert.equal(pieces.join(''), tokenizer.decode(ids, { skipSpecial }), `pieces of ${ids}`);
  return pieces;
}

for (const { name, folder } of tokenizerFolders)
  describe(`decoding with the tokenizer of ${name}`, () => {
    const tokenizer = tokenizerOfSuite(folder);
    /** The token of each single byte. */
    let byteTokens: Map<number, number>;

    before(() => {
      byteTokens = new Map();
      for (let id = tokenizer().vocabularySize - 1; id >= 0; id--) {
        const bytes = tokenizer().tokenBytes(id);
        if (bytes.length === 1) byteTokens.set(bytes[0]!, id);
      }
      assert.equal(byteTokens.size, 256);
    });

    const bytesAsTokens = (text: string) => Array.from(Buffer.from(text), (byte) => byteTokens.get(byte)!);

    for (const skipSpecial of [true, false])
      it(`in a stream gives the text of any ids, ${skipSpecial ? 'without' : 'with'} special tokens`, () => {
        const random = new Random(1);
        const { vocabularySize, specialIds } = tokenizer();
        const writers = [
          () => random.integer(0, vocabularySize + 100),
          () => random.pick([...specialIds]),
          () => random.pick([...byteTokens.values()]),
          () => random.pick([...byteTokens].filter(([byte]) => byte >= 0xe0))[1],
          () => random.pick([...byteTokens].filter(([byte]) => byte >= 0x80 && byte < 0xc0))[1],
        ];
        for (let i = 0; i < 60; i++) {
          const ids = Array.from({ length: random.integer(0, 80) }, () => random.pick(writers)());
          assertStreams(tokenizer(), ids, skipSpecial);
        }
      });

    it('in a stream never cuts a character, however its bytes lie in tokens', async () => {
      const random = new Random(2);
      for (let i = 0; i < 40; i++) {
        const text = randomText(random, 12, ['every plane', 'emoji joined, toned and flagged']).normalize('NFC');
        for (const ids of [await tokenizer().encode(text), bytesAsTokens(text)]) {
          const pieces = assertStreams(tokenizer(), ids, true);
          assert.equal(pieces.join(''), text);
          if (!text.includes('\ufffd')) for (const piece of pieces) assert.ok(!/[\ufffd\p{Surrogate}]/u.test(piece));
        }
      }
    });

    it('in a stream gives a character with its last byte', () => {
      assert.deepEqual(assertStreams(tokenizer(), bytesAsTokens('é€😀'), true), [
        ...['', 'é', '', '', '€', '', '', '', '😀'],
        '',
      ]);
    });

    it('in a stream gives U+FFFD at the end for a character that never became complete, and then begins anew', () => {
      const stream = tokenizer().stream();
      assert.deepEqual(
        bytesAsTokens('😀')
          .slice(0, 3)
          .map((id) => stream.push(id)),
        ['', '', ''],
      );
      assert.equal(stream.end(), '\ufffd');
      assert.equal(stream.end(), '');
      assert.equal(stream.push(byteTokens.get(0x80)!), '\ufffd');
      assert.equal(stream.push(byteTokens.get(0x61)!), 'a');
    });

    it('skips special tokens unless asked, even within a character', () => {
      const special = tokenizer().tokenId('<|im_end|>')!;
      const [first, ...rest] = bytesAsTokens('€') as [number, ...number[]];
      const ids = [byteTokens.get(0x61)!, special, first, special, ...rest];
      assert.equal(tokenizer().decode(ids), 'a€');
      assert.equal(assertStreams(tokenizer(), ids, true).join(''), 'a€');
      assert.equal(tokenizer().decode(ids, { skipSpecial: false }), 'a<|im_end|>\ufffd<|im_end|>\ufffd\ufffd');
      assertStreams(tokenizer(), ids, false);
    });

    it('makes nothing of ids without a token', () => {
      const { vocabularySize } = tokenizer();
      const beyond = [vocabularySize, vocabularySize + 1, 152_064, 2 ** 31, Number.MAX_SAFE_INTEGER];
      assert.equal(tokenizer().decode(beyond, { skipSpecial: false }), '');
      for (const id of beyond) assert.equal(tokenizer().tokenBytes(id).length, 0);
      const [first, ...rest] = bytesAsTokens('€') as [number, ...number[]];
      assert.equal(assertStreams(tokenizer(), [first, ...beyond, ...rest], false).join(''), '€');
    });

    it('keeps a byte order mark, which the model wrote', () => {
      assert.equal(tokenizer().decode(bytesAsTokens('\ufeffa')), '\ufeffa');
      assert.equal(assertStreams(tokenizer(), bytesAsTokens('\ufeffa'), true).join(''), '\ufeffa');
    });

    it('takes any iterable of ids', () => {
      const ids = bytesAsTokens('word');
      assert.equal(tokenizer().decode(Int32Array.from(ids)), 'word');
      assert.equal(tokenizer().decode(new Set(ids)), 'word');
    });

    for (const id of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, '1' as unknown as number])
      it(`refuses the id ${typeof id} ${String(id)}`, () => {
        for (const call of [
          () => tokenizer().decode([id]),
          () => tokenizer().stream().push(id),
          () => tokenizer().tokenBytes(id),
        ])
          assertThrowsQwen2(call, 'invalid_argument', 'token id', String(id));
      });
  });
