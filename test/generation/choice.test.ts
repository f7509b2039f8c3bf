import assert from 'node:assert/strict';
import { Choice, type Piece } from '../../lib/generation/choice.js';
import type { TokenStream } from '../../lib/tokenizer/detokenizer.js';

/** Token i has the text texts[i]; bytes of an unfinished character are left at the end. */
function streamOf(texts: readonly string[], left: string): TokenStream {
  return { push: (id: number) => texts[id]!, end: () => left } as unknown as TokenStream;
}

function choiceOf(texts: readonly string[], stop: string[], { left = '', endTokens = [] as number[] } = {}) {
  const pieces: Piece[] = [];
  const parameters = { stop, minTokens: 0, logprobs: undefined };
  const choice = new Choice(0, streamOf(texts, left), parameters, new Set(endTokens), (piece) => pieces.push(piece));
  return { choice, pieces };
}

describe('choice', () => {
  it('gives an unfinished character at the end, but not one that follows a stop string', () => {
    for (const [stop, text] of [
      [['x'], 'ab\uFFFD'],
      [['b'], 'a'],
    ] as const) {
      const { choice } = choiceOf(['a', 'b'], [...stop], { left: '\uFFFD' });
      choice.push(0, undefined);
      const stopped = choice.push(1, undefined);
      choice.end(stopped ? 'stop' : 'length');
      assert.equal(choice.result.text, text);
    }
  });

  it('keeps tokens with the text that they complete', () => {
    const { choice, pieces } = choiceOf(['', 'é', 's', 'top?'], ['stop!']);
    for (const token of [0, 1, 2, 3]) choice.push(token, undefined);
    choice.end('length');
    assert.deepEqual(
      pieces.map(({ text, tokens }) => [text, tokens]),
      [
        ['é', [0, 1]],
        ['stop?', [2, 3]],
        ['', []],
      ],
    );
  });

  it('gives what may have been a stop string when an end token comes', () => {
    const { choice, pieces } = choiceOf(['a st', 'op'], ['stop'], { endTokens: [1] });
    choice.push(0, undefined);
    assert.equal(choice.push(1, undefined), false, 'the engine knows end tokens');
    choice.end('stop');
    assert.deepEqual(pieces, [
      { index: 0, text: 'a ', tokens: [0] },
      { index: 0, text: 'st', tokens: [1], finishReason: 'stop' },
    ]);
  });
});
