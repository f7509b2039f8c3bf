import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Qwen2ErrorCode } from '../../lib/native/errors.js';
import { loadTokenizer } from '../../lib/tokenizer/tokenizer.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import { editedDemoFiles, type FileEdit, type Json, withFolder } from '../support/tokenizers.js';

interface Damage {
  /** Changes the parsed tokenizer.json and tokenizer_config.json. */
  change?: FileEdit;
  /** Files in the place of those; undefined: the file is absent. */
  files?: Record<string, string | undefined>;
  code: Qwen2ErrorCode;
  /** What the message names. */
  words: string[];
}

const split = (tokenizer: Json) => tokenizer.pre_tokenizer.pretokenizers[0];
const byteLevel = (tokenizer: Json) => tokenizer.pre_tokenizer.pretokenizers[1];

const damages: Record<string, Damage> = {
  // tokenizer.json as a file
  'no tokenizer.json': { files: { 'tokenizer.json': undefined }, code: 'not_found', words: ['tokenizer.json'] },
  'a tokenizer.json that is not JSON': {
    files: { 'tokenizer.json': '{"model": ' },
    code: 'invalid_checkpoint',
    words: ['tokenizer.json', 'not JSON'],
  },
  'an empty tokenizer.json': { files: { 'tokenizer.json': '' }, code: 'invalid_checkpoint', words: ['not JSON'] },
  'a tokenizer.json that is a list': {
    files: { 'tokenizer.json': '[]' },
    code: 'invalid_checkpoint',
    words: ['tokenizer.json', 'JSON object', 'an array'],
  },

  // The model
  'no model': {
    change: (tokenizer) => delete tokenizer.model,
    code: 'invalid_checkpoint',
    words: ['tokenizer.json: model', 'found nothing'],
  },
  'a model that is null': {
    change: (tokenizer) => (tokenizer.model = null),
    code: 'invalid_checkpoint',
    words: ['tokenizer.json: model', 'found null'],
  },
  'a model without a type': {
    change: ({ model }) => delete model.type,
    code: 'invalid_checkpoint',
    words: ['model.type is missing'],
  },
  'a model of another kind': {
    change: ({ model }) => (model.type = 'Unigram'),
    code: 'unsupported',
    words: ['model.type', 'Unigram', 'BPE'],
  },
  'a model that merges at random': {
    change: ({ model }) => (model.dropout = 0.1),
    code: 'unsupported',
    words: ['model.dropout', '0.1'],
  },
  'a model that marks the ends of words': {
    change: ({ model }) => (model.end_of_word_suffix = '</w>'),
    code: 'unsupported',
    words: ['model.end_of_word_suffix', '</w>'],
  },

  // The vocabulary
  'no vocabulary': {
    change: ({ model }) => delete model.vocab,
    code: 'invalid_checkpoint',
    words: ['model.vocab', 'nothing'],
  },
  'a vocabulary without a byte': {
    change: ({ model }) => {
      delete model.vocab.Ā;
      model.merges = [];
    },
    code: 'invalid_checkpoint',
    words: ['model.vocab', 'byte 0'],
  },
  'a negative id': {
    change: ({ model }) => (model.vocab.a = -1),
    code: 'invalid_checkpoint',
    words: ['"a"', 'id -1', 'integer from 0 on'],
  },
  'an id that is no integer': {
    change: ({ model }) => (model.vocab.a = 1.5),
    code: 'invalid_checkpoint',
    words: ['"a"', '1.5'],
  },
  'an id that is text': {
    change: ({ model }) => (model.vocab.a = '7'),
    code: 'invalid_checkpoint',
    words: ['"a"', '"7"'],
  },
  'an id of billions': {
    change: ({ model }) => (model.vocab.a = 4_000_000_000),
    code: 'invalid_checkpoint',
    words: ['"a"', '4000000000'],
  },
  'two tokens with one id': {
    change: ({ model }) => (model.vocab.a = model.vocab.b),
    code: 'invalid_checkpoint',
    words: ['"a"', '"b"', 'both have id'],
  },
  'a token that spells no bytes': {
    change: ({ model }) => (model.vocab.日 = 9000),
    code: 'invalid_checkpoint',
    words: ['"日"', 'byte-level alphabet'],
  },

  // The merges
  'no merges': {
    change: ({ model }) => delete model.merges,
    code: 'invalid_checkpoint',
    words: ['model.merges', 'nothing'],
  },
  'a merge of an unknown token': {
    change: ({ model }) => (model.merges[5] = 'a unknown'),
    code: 'invalid_checkpoint',
    words: ['model.merges[5]', '"unknown"'],
  },
  'a merge into an unknown token': {
    change: ({ model }) => (model.merges[7] = ['~', '~']),
    code: 'invalid_checkpoint',
    words: ['model.merges[7]', '"~"', 'result'],
  },
  'a merge of one token': {
    change: ({ model }) => (model.merges[1] = 'a'),
    code: 'invalid_checkpoint',
    words: ['model.merges[1]', 'two tokens'],
  },
  'a merge of three tokens': {
    change: ({ model }) => (model.merges[1] = 'a b c'),
    code: 'invalid_checkpoint',
    words: ['model.merges[1]', 'two tokens'],
  },
  'a merge that is a number': {
    change: ({ model }) => (model.merges[1] = 3),
    code: 'invalid_checkpoint',
    words: ['model.merges[1] is 3'],
  },
  'more merges than ranks': {
    change: ({ model }) => (model.merges = new Array(2 ** 21 + 1).fill(0)),
    code: 'unsupported',
    words: ['model.merges', '2097153', '2097152'],
  },

  // Added tokens
  'an added token without content': {
    change: ({ added_tokens }) => delete added_tokens[0].content,
    code: 'invalid_checkpoint',
    words: ['added token', '2045', 'content'],
  },
  'an added token without an id': {
    change: ({ added_tokens }) => delete added_tokens[0].id,
    code: 'invalid_checkpoint',
    words: ['<|endoftext|>', 'id'],
  },
  'an added token that is text': {
    change: ({ added_tokens }) => (added_tokens[0] = '<|im_end|>'),
    code: 'invalid_checkpoint',
    words: ['added token', 'a string'],
  },
  'two added tokens with one id': {
    change: ({ added_tokens }) => (added_tokens[1].id = added_tokens[0].id),
    code: 'invalid_checkpoint',
    words: ['"<|endoftext|>"', '"<|im_start|>"', 'both have id 2045'],
  },
  'an added token that takes the spaces beside it': {
    change: ({ added_tokens }) => (added_tokens[2].lstrip = true),
    code: 'unsupported',
    words: ['<|im_end|>', 'lstrip'],
  },

  // Normalizer and pre-tokenizer
  'another normalizer': {
    change: (tokenizer) => (tokenizer.normalizer = { type: 'NFKC' }),
    code: 'unsupported',
    words: ['normalizer.type', 'NFKC', 'NFC'],
  },
  'no pre-tokenizer': {
    change: (tokenizer) => (tokenizer.pre_tokenizer = null),
    code: 'invalid_checkpoint',
    words: ['pre_tokenizer', 'null'],
  },
  'an unknown pre-tokenizer': {
    change: (tokenizer) => (tokenizer.pre_tokenizer = { type: 'Whitespace' }),
    code: 'unsupported',
    words: ['pre_tokenizer.type', 'Whitespace'],
  },
  'a pre-tokenizer of three steps': {
    change: ({ pre_tokenizer: { pretokenizers } }) => pretokenizers.push({ type: 'Digits' }),
    code: 'unsupported',
    words: ['pre_tokenizer', 'Split and ByteLevel'],
  },
  'an unknown first step': {
    change: (tokenizer) => (split(tokenizer).type = 'Punctuation'),
    code: 'unsupported',
    words: ['first pre-tokenizer', 'Punctuation', 'Split'],
  },
  'an unknown second step': {
    change: (tokenizer) => (byteLevel(tokenizer).type = 'Metaspace'),
    code: 'unsupported',
    words: ['second pre-tokenizer', 'Metaspace', 'ByteLevel'],
  },
  'a ByteLevel step that adds a space': {
    change: (tokenizer) => (byteLevel(tokenizer).add_prefix_space = true),
    code: 'unsupported',
    words: ['ByteLevel', 'space'],
  },
  'a split that drops its matches': {
    change: (tokenizer) => (split(tokenizer).behavior = 'Removed'),
    code: 'unsupported',
    words: ['behavior', 'Removed', 'Isolated'],
  },
  'a split at a literal': {
    change: (tokenizer) => (split(tokenizer).pattern = { String: ' ' }),
    code: 'unsupported',
    words: ['Split', 'regular expression'],
  },
  'a regular expression with an open group': {
    change: (tokenizer) => (split(tokenizer).pattern.Regex = '(?:a|b'),
    code: 'unsupported',
    words: ['regular expression', '(?:a|b'],
  },
  'a regular expression that means something else in JavaScript': {
    change: (tokenizer) => (split(tokenizer).pattern.Regex = '\\p{L}++|\\h'),
    code: 'unsupported',
    words: ['regular expression', '\\p{L}++|\\h'],
  },

  // tokenizer_config.json and the chat template
  'a tokenizer_config.json that is not JSON': {
    files: { 'tokenizer_config.json': 'not found' },
    code: 'invalid_checkpoint',
    words: ['tokenizer_config.json', 'not JSON'],
  },
  'a tokenizer_config.json that is null': {
    files: { 'tokenizer_config.json': 'null' },
    code: 'invalid_checkpoint',
    words: ['tokenizer_config.json', 'JSON object', 'null'],
  },
  'added tokens in a list': {
    change: (_, config) => (config.added_tokens_decoder = []),
    code: 'invalid_checkpoint',
    words: ['added_tokens_decoder', 'an array'],
  },
  'an added token under a word for an id': {
    change: (_, config) => (config.added_tokens_decoder.many = { content: '<|new|>' }),
    code: 'invalid_checkpoint',
    words: ['<|new|>', 'id'],
  },
  'a chat template that is a number': {
    change: (_, config) => (config.chat_template = 7),
    code: 'invalid_checkpoint',
    words: ['tokenizer_config.json', 'chat_template'],
  },
  'chat templates of which none is the default': {
    change: (_, config) => (config.chat_template = [{ name: 'rag', template: '' }]),
    code: 'invalid_checkpoint',
    words: ['chat_template', '"default"'],
  },
  'a chat template that is not Jinja': {
    files: { 'chat_template.jinja': '{% for m in messages %}{{ m.content }}' },
    code: 'invalid_checkpoint',
    words: ['chat template', "can't be parsed"],
  },
};

describe('loading a tokenizer answers', () => {
  for (const [what, damage] of Object.entries(damages))
    it(`${what} with ${damage.code}`, async () =>
      withFolder({ ...(await editedDemoFiles(damage.change)), ...damage.files }, (folder) =>
        assertRejectsQwen2(loadTokenizer(folder), damage.code, ...damage.words),
      ));

  it('a folder that does not exist with not_found', () =>
    assertRejectsQwen2(loadTokenizer('/nowhere/model'), 'not_found', join('/nowhere/model', 'tokenizer.json')));

  it("a file that can't be read with io_error", () =>
    withFolder({}, async (folder) => {
      await mkdir(join(folder, 'tokenizer.json'));
      await assertRejectsQwen2(loadTokenizer(folder), 'io_error', 'tokenizer.json', "can't be read");
    }));
});
