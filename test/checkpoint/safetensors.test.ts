import assert from 'node:assert/strict';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors.js';
import { floatTensor, rawSafetensors, removeFolders, safetensors, writeFolder } from '../support/checkpointFiles.js';
import { assertRejectsQwen2 } from '../support/errors.js';

/** A tensor's entry; each case of damage changes one thing of it. */
const entry = (changes: object = {}) => ({ dtype: 'F32', shape: [2, 2], data_offsets: [0, 16], ...changes });

/** A file of one tensor, w, with this entry and so many bytes of data. */
const file = (changes: object, bytes = 16) =>
  rawSafetensors(JSON.stringify({ w: entry(changes) }), Buffer.alloc(bytes));

/** A file of tensors a, b … at these places. */
const placed = (offsets: [number, number][], bytes: number) => {
  const entries = offsets.map(([begin, end], i) => [
    String.fromCharCode(97 + i),
    { dtype: 'U8', shape: [Math.max(0, end - begin)], data_offsets: [begin, end] },
  ]);
  return rawSafetensors(JSON.stringify(Object.fromEntries(entries)), Buffer.alloc(bytes));
};

/** The 8 bytes of a header's length before whatever follows. */
function withLength(length: bigint, rest: Uint8Array = new Uint8Array()): Buffer {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length);
  return Buffer.concat([prefix, rest]);
}

const valid = safetensors({
  first: floatTensor('F32', [3], Float32Array.of(1, 2, 3)),
  second: floatTensor('BF16', [2, 2], Float32Array.of(1, 2, 3, 4)),
});
const headerEnd = 8 + Number(valid.readBigUInt64LE());

describe('safetensors', () => {
  let folder = '';
  let path = '';
  before(async () => {
    folder = await writeFolder({});
    path = join(folder, 'model.safetensors');
  });
  after(removeFolders);

  const read = async (content: Uint8Array) => {
    await writeFile(path, content);
    return readSafetensorsHeader(path);
  };
  const refuses = async (content: Uint8Array, ...words: string[]) =>
    assertRejectsQwen2(read(content), 'invalid_checkpoint', path, ...words);

  it('header: name, dtype, shape and place of every tensor', async () => {
    assert.deepEqual(
      await read(valid),
      new Map([
        ['first', { name: 'first', dtype: 'f32', shape: [3], path, offset: headerEnd, byteLength: 12 }],
        ['second', { name: 'second', dtype: 'bf16', shape: [2, 2], path, offset: headerEnd + 12, byteLength: 8 }],
      ]),
    );
  });

  describe('legal files', () => {
    const scalar = { dtype: 'F32', shape: [], data_offsets: [0, 4] };
    const legal: Record<string, [content: Buffer, shapes: Record<string, number[]>]> = {
      'no tensors': [rawSafetensors('{}'), {}],
      'metadata only': [rawSafetensors('{"__metadata__":{"format":"pt"}}'), {}],
      'a scalar': [rawSafetensors(JSON.stringify({ s: scalar }), Buffer.alloc(4)), { s: [] }],
      'a tensor without elements': [file({ shape: [0, 7], data_offsets: [0, 0] }, 0), { w: [0, 7] }],
      'tensors without elements between others': [
        placed(
          [
            [0, 4],
            [4, 4],
            [4, 4],
            [4, 6],
          ],
          6,
        ),
        { a: [4], b: [0], c: [0], d: [2] },
      ],
      'a header padded with spaces': [
        rawSafetensors(`${JSON.stringify({ w: entry() })}     `, Buffer.alloc(16)),
        { w: [2, 2] },
      ],
      'a tensor without elements listed behind the one that begins there': [
        placed(
          [
            [4, 6],
            [4, 4],
            [0, 4],
          ],
          6,
        ),
        { a: [2], b: [0], c: [4] },
      ],
      'tensors out of order': [
        placed(
          [
            [4, 6],
            [0, 4],
          ],
          6,
        ),
        { a: [2], b: [4] },
      ],
      'names of any kind': [
        rawSafetensors(
          '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a:{\\"}":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
          Buffer.alloc(2),
        ),
        { ['__proto__']: [1], 'a:{"}': [1] },
      ],
      '8 dimensions': [file({ shape: [1, 1, 1, 1, 1, 1, 2, 2] }), { w: [1, 1, 1, 1, 1, 1, 2, 2] }],
    };
    for (const [what, [content, shapes]] of Object.entries(legal))
      it(what, async () => {
        const found = [...(await read(content)).values()].map(({ name, shape }) => [name, shape] as const);
        assert.deepEqual(new Map(found), new Map(Object.entries(shapes)));
      });

    it('of every dtype, by its size', async () => {
      const sizes = {
        1: ['BOOL', 'U8', 'I8', 'F8_E4M3', 'F8_E5M2'],
        2: ['I16', 'U16', 'F16', 'BF16'],
        4: ['I32', 'U32', 'F32'],
        8: ['I64', 'U64', 'F64'],
      };
      for (const [size, dtypes] of Object.entries(sizes))
        for (const dtype of dtypes) {
          const bytes = 4 * Number(size);
          const header = await read(file({ dtype, data_offsets: [0, bytes] }, bytes));
          assert.equal(header.get('w')?.byteLength, bytes);
          assert.equal(header.get('w')?.dtype, dtype.toLowerCase());
        }
    });
  });

  describe('truncated', () => {
    it('at every byte of a file: what is missing is told', async () => {
      for (let length = 0; length < valid.length; length++) {
        const cut = valid.subarray(0, length);
        if (length < 8) await refuses(cut, `it has ${length} bytes`);
        else if (length < headerEnd)
          await refuses(cut, `ends within its header: ${headerEnd - length} bytes are missing`);
        else
          await refuses(
            cut,
            `truncated: ${valid.length - length} of ${valid.length} bytes are missing`,
            'download it again',
          );
      }
    });
  });

  const damaged: Record<string, Record<string, [content: Uint8Array, ...words: string[]]>> = {
    'length of the header': {
      zero: [withLength(0n, Buffer.alloc(64)), "its header's length is 0"],
      one: [withLength(1n, Buffer.from('{')), "its header's length is 1"],
      '2^63': [withLength(2n ** 63n, Buffer.alloc(64)), "its header's length is 9223372036854775808"],
      '2^64 − 1': [withLength(2n ** 64n - 1n, Buffer.alloc(64)), 'Is it a safetensors file?'],
      '2^53 + 1': [withLength(2n ** 53n + 1n), "its header's length is 9007199254740993"],
      'more than is ever parsed': [withLength(2n ** 22n + 1n, Buffer.alloc(64)), 'expected 2 to 4194304'],
      'a byte more than the file has': [withLength(3n, Buffer.from('{}')), '1 bytes are missing'],
      'that of another format, GGUF': [Buffer.from('GGUF\x03\0\0\0\x23\x01\0\0\0\0\0\0'), 'Is it a safetensors file?'],
      'that of another format, zip (PyTorch)': [Buffer.from('PK\x03\x04\0\0\x08\x08\0\0'), 'Is it a safetensors file?'],
    },
    header: {
      'not JSON': [rawSafetensors('not json'), 'its header is not JSON'],
      'of zeros': [rawSafetensors(Buffer.alloc(16)), 'its header is not JSON'],
      'not UTF-8': [rawSafetensors(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), 'its header is not JSON'],
      'that ends early': [rawSafetensors(JSON.stringify({ w: entry() }).slice(0, -1)), 'its header is not JSON'],
      'a list': [rawSafetensors('[]'), 'its header is []; expected an object'],
      'a number': [rawSafetensors('17'), 'its header is 17; expected an object'],
      null: [rawSafetensors('null'), 'its header is null; expected an object'],
      'nested without end': [rawSafetensors(`{"w":${'['.repeat(50_000)}${']'.repeat(50_000)}}`), 'tensor "w"'],
    },
    entry: {
      'a number': [rawSafetensors('{"w":5}'), 'tensor "w" is 5; expected an object'],
      null: [rawSafetensors('{"w":null}'), 'tensor "w" is null; expected an object'],
      'a list': [rawSafetensors('{"w":[]}'), 'tensor "w" has the unknown dtype missing'],
      'dtype missing': [file({ dtype: undefined }), 'unknown dtype missing'],
      'dtype unknown': [file({ dtype: 'F12' }), 'tensor "w" has the unknown dtype "F12"'],
      'dtype in lower case': [file({ dtype: 'f32' }), 'unknown dtype "f32"'],
      "dtype of JavaScript's own": [file({ dtype: 'constructor' }), 'unknown dtype "constructor"'],
      'dtype a number': [file({ dtype: 4 }), 'unknown dtype 4'],
      'shape missing': [file({ shape: undefined }), 'has the shape missing; expected whole numbers'],
      'shape a number': [file({ shape: 4 }), 'has the shape 4'],
      'shape negative': [file({ shape: [-2, -2] }), 'has the shape [-2,-2]'],
      'shape fractional': [file({ shape: [0.5, 8] }), 'has the shape [0.5,8]'],
      'shape of text': [file({ shape: ['2', 2] }), 'has the shape ["2",2]'],
      'shape of null': [file({ shape: [null, 2] }), 'has the shape [null,2]'],
      'shape beyond 2^53': [
        file({ shape: [2 ** 53, 0], data_offsets: [0, 0] }, 0),
        'has the shape [9007199254740992,0]',
      ],
      'shape of 9 dimensions': [file({ shape: [1, 1, 1, 1, 1, 1, 1, 2, 2] }), 'has the shape [1,1,1,1,1,1,1,2,2]'],
      'shape huge': [file({ shape: [2 ** 52, 2 ** 52] }), 'tensor "w" has 16 bytes; F32', 'takes'],
      'shape whose bytes wrap around to the right number in 64 bits': [
        file({ shape: [2 ** 31, 2 ** 31 + 1, 2], data_offsets: [0, 2 ** 34] }, 16),
        'takes',
      ],
      'shape too small': [file({ shape: [2, 1] }), 'tensor "w" has 16 bytes; F32 [2,1] takes 8'],
      'shape too large': [file({ shape: [3, 2] }), 'tensor "w" has 16 bytes; F32 [3,2] takes 24'],
      'dtype of another size': [file({ dtype: 'BF16' }), 'tensor "w" has 16 bytes; BF16 [2,2] takes 8'],
      'data_offsets missing': [file({ data_offsets: undefined }), 'has data_offsets missing; expected [begin, end]'],
      'data_offsets of one': [file({ data_offsets: [16] }), 'has data_offsets [16]'],
      'data_offsets of three': [file({ data_offsets: [0, 8, 16] }), 'has data_offsets [0,8,16]'],
      'data_offsets negative': [file({ data_offsets: [-16, 0] }), 'has data_offsets [-16,0]'],
      'data_offsets fractional': [file({ data_offsets: [0.5, 16.5] }), 'has data_offsets [0.5,16.5]'],
      'begin behind end': [file({ data_offsets: [16, 0] }), 'has data_offsets [16,0]'],
    },
    places: {
      'that overlap': [
        placed(
          [
            [0, 8],
            [4, 12],
          ],
          12,
        ),
        'tensor "b" begins 4 bytes before the end of the one before it',
      ],
      'that are the same': [
        placed(
          [
            [0, 8],
            [0, 8],
          ],
          8,
        ),
        'begins 8 bytes before the end of the one before it',
      ],
      'with a hole': [
        placed(
          [
            [0, 8],
            [10, 12],
          ],
          12,
        ),
        'tensor "b" begins 2 bytes after the end of the one before it',
      ],
      'with a hole at the start': [placed([[2, 8]], 8), 'tensor "a" begins 2 bytes after'],
      'of a tensor without elements within another': [
        placed(
          [
            [0, 8],
            [4, 4],
          ],
          8,
        ),
        'tensor "b" begins 4 bytes before',
      ],
      'beyond the end': [placed([[0, 8]], 5), 'truncated: 3 of', 'download it again'],
      'far beyond the end': [placed([[0, 2 ** 52]], 5), 'truncated'],
      'followed by bytes of nobody': [placed([[0, 8]], 11), '3 bytes follow its last tensor'],
      'none, but bytes': [rawSafetensors('{}', Buffer.alloc(3)), '3 bytes follow its last tensor'],
    },
    'name twice': {
      'with different bytes': [
        rawSafetensors(
          '{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
          Buffer.alloc(2),
        ),
        'names a tensor twice',
      ],
      'with the same bytes in two dtypes': [
        rawSafetensors(
          '{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}, "w" : {"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}',
          Buffer.alloc(2),
        ),
        'names a tensor twice',
      ],
      'spelled differently': [
        rawSafetensors(
          '{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0077":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
          Buffer.alloc(1),
        ),
        'names a tensor twice',
      ],
    },
  };
  for (const [part, cases] of Object.entries(damaged))
    describe(`damaged: ${part}`, () => {
      for (const [what, [content, ...words]] of Object.entries(cases)) it(what, async () => refuses(content, ...words));
    });

  it('whose header has any one bit flipped is refused, or has the same tensors by other names, dtypes or shapes', async () => {
    let refused = 0;
    for (let bit = 8 * 8; bit < headerEnd * 8; bit++) {
      const flipped = Buffer.from(valid);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      try {
        const entries = [...(await read(flipped)).values()];
        const bytes = entries.reduce((sum, { byteLength }) => sum + byteLength, 0);
        assert.equal(bytes, valid.length - headerEnd);
      } catch (error) {
        await assertRejectsQwen2(Promise.reject(error), 'invalid_checkpoint', path);
        refused++;
      }
    }
    const bits = (headerEnd - 8) * 8;
    assert.ok(refused > bits / 2 && refused < bits, `${refused} of ${bits}`);
  });

  describe('a file that is', () => {
    it('not there', async () => {
      await assertRejectsQwen2(readSafetensorsHeader(join(folder, 'other')), 'not_found', join(folder, 'other'));
    });

    it('empty', async () => refuses(Buffer.alloc(0), 'it has 0 bytes'));

    it('a folder', async () => {
      const inner = join(folder, 'a.safetensors');
      await mkdir(inner);
      await assertRejectsQwen2(readSafetensorsHeader(inner), 'io_error', inner);
    });

    it('not readable for this user', async function () {
      if (process.getuid?.() === 0) this.skip();
      await writeFile(path, valid);
      await chmod(path, 0);
      await assertRejectsQwen2(readSafetensorsHeader(path), 'io_error', path).finally(() => chmod(path, 0o600));
    });
  });
});
