import assert from 'node:assert/strict';
import type { ChatMessage, ChatOptions } from '../../lib/tokenizer/chatTemplate.js';
import { assertQwen2Error, assertRejectsQwen2 } from '../support/errors.js';
import { editedDemoFiles, type Files, withTemplate, withTokenizer } from '../support/tokenizers.js';

const hello = [{ role: 'user', content: 'Hello' }];

/** The demo's files with tokenizer_config.json changed. */
const withConfig = (change: Record<string, unknown>) => editedDemoFiles((_, config) => Object.assign(config, change));

const render = (files: Files, messages: ChatMessage[] = hello, options: ChatOptions = {}) =>
  withTokenizer(files, (tokenizer) => tokenizer.applyChatTemplate(messages, options));

describe('chat template', () => {
  it('is found in tokenizer_config.json', async () => {
    const prompt = '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n';
    assert.equal(await render(await editedDemoFiles()), `${prompt}<|im_start|>assistant\n`);
    assert.equal(await render(await editedDemoFiles(), hello, { addGenerationPrompt: false }), prompt);
  });

  it('is found in a list of templates, under the name "default"', async () => {
    const chat_template = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: '{{ messages[0].content }}' },
    ];
    assert.equal(await render(await withConfig({ chat_template })), 'Hello');
  });

  it('is found in chat_template.jinja, before tokenizer_config.json', async () => {
    assert.equal(await render({ ...(await editedDemoFiles()), 'chat_template.jinja': '{{ messages | length }}' }), '1');
  });

  it('sees tools, special tokens by name, and further fields of messages', () =>
    withTemplate('{{ tools[0].name }} {{ eos_token }} {{ bos_token }} {{ messages[0].mood }}', async (tokenizer) => {
      const messages = [{ role: 'user', content: '', mood: 'fine' }];
      const text = await tokenizer.applyChatTemplate(messages, { tools: [{ name: 'look' }] });
      assert.equal(text, 'look <|endoftext|>  fine');
    }));

  it('sees a special token that tokenizer_config.json describes by an object', async () => {
    const files = await withConfig({ bos_token: { content: '<|im_start|>' }, chat_template: '{{ bos_token }}!' });
    assert.equal(await render(files), '<|im_start|>!');
  });

  it('sees no tools where none are given', () =>
    withTemplate('{% if tools %}tools{% else %}none{% endif %}', async (tokenizer) => {
      assert.equal(await tokenizer.applyChatTemplate(hello), 'none');
    }));

  it('encodes to the ids of what it renders', async () => {
    await withTokenizer(await editedDemoFiles(), async (tokenizer) => {
      const messages = [{ role: 'system', content: 'e\u0301  \n' }, ...hello, { role: 'assistant', content: '👋' }];
      for (const addGenerationPrompt of [true, false]) {
        const text = await tokenizer.applyChatTemplate(messages, { addGenerationPrompt });
        const expected = await tokenizer.encode(text, { parseSpecial: true });
        assert.deepEqual(await tokenizer.encodeChat(messages, { addGenerationPrompt }), expected);
      }
    });
  });

  it('that is absent makes chat unsupported, and nothing else', async () => {
    for (const chat_template of [undefined, null])
      await withTokenizer(await withConfig({ chat_template }), async (tokenizer) => {
        assert.equal(tokenizer.hasChatTemplate, false);
        for (const call of [tokenizer.encodeChat(hello), tokenizer.applyChatTemplate(hello)])
          await assertRejectsQwen2(call, 'unsupported', 'no chat template', 'tokenizer_config.json', 'generate');
        assert.equal(tokenizer.decode(await tokenizer.encode('text')), 'text');
      });
    await withTokenizer({ ...(await editedDemoFiles()), 'tokenizer_config.json': undefined }, async (tokenizer) => {
      assert.equal(tokenizer.hasChatTemplate, false);
    });
  });

  const refusals: Record<string, { template: string; words: string[] }> = {
    'raises an exception': {
      template: "{{ raise_exception('Roles must alternate') }}",
      words: ['chat template refuses', 'Roles must alternate'],
    },
    'calls what there is not': { template: '{{ messages.nothing() }}', words: ['chat template refuses'] },
    'uses an unknown filter': { template: '{{ messages | no_such_filter }}', words: ['no_such_filter'] },
  };
  for (const [what, { template, words }] of Object.entries(refusals))
    it(`that ${what} refuses the messages`, () =>
      withTemplate(template, async (tokenizer) => {
        for (const call of [() => tokenizer.encodeChat(hello), () => tokenizer.applyChatTemplate(hello)])
          await assertRejectsQwen2(call(), 'invalid_argument', ...words);
        assert.equal(tokenizer.decode(await tokenizer.encode('the tokenizer works on')), 'the tokenizer works on');
      }));

  const wrongMessages: Record<string, { messages: unknown; words: string[] }> = {
    'no list': { messages: { role: 'user', content: 'x' }, words: ['messages', 'list'] },
    nothing: { messages: undefined, words: ['messages', 'list'] },
    'an empty list': { messages: [], words: ['messages', 'one or more'] },
    'a text': { messages: ['Hello'], words: ['messages[0]', '{ role, content }'] },
    null: { messages: [...hello, null], words: ['messages[1]', '{ role, content }'] },
    'a message without a role': { messages: [{ content: 'x' }], words: ['messages[0].role', 'undefined'] },
    'a role that is a number': { messages: [{ role: 1, content: 'x' }], words: ['messages[0].role', '1', "'user'"] },
    'no content': { messages: [...hello, { role: 'user' }], words: ['messages[1].content', 'undefined', 'a string'] },
    'a content that is null': { messages: [{ role: 'user', content: null }], words: ['messages[0].content', 'null'] },
    'a content in parts': {
      messages: [{ role: 'user', content: [{ type: 'text', text: 'x' }] }],
      words: ['messages[0].content', 'object', 'a string'],
    },
    'a function in a message': { messages: [{ ...hello[0], call() {} }], words: ['plain data'] },
    'a message that contains itself': { messages: [containingItself()], words: ['plain data', 'contain themselves'] },
    'lists in lists in lists': { messages: [{ ...hello[0], deep: nested(1000) }], words: ['plain data', '256 deep'] },
  };
  for (const [what, { messages, words }] of Object.entries(wrongMessages))
    it(`is not asked to render ${what}`, async () =>
      withTokenizer(await editedDemoFiles(), async (tokenizer) => {
        const error = await tokenizer.encodeChat(messages as ChatMessage[]).catch((error: unknown) => error);
        assertQwen2Error(error, 'invalid_argument', words);
        assert.ok((await tokenizer.encodeChat(hello)).length > 0, 'the tokenizer works on');
      }));

  it('takes tools that are plain data only', async () =>
    withTokenizer(await editedDemoFiles(), async (tokenizer) => {
      for (const tools of [[{ call: () => 1 }], [containingItself()]])
        await assertRejectsQwen2(tokenizer.encodeChat(hello, { tools }), 'invalid_argument', 'plain data');
    }));
});

function containingItself(): ChatMessage {
  const message: ChatMessage = { role: 'user', content: 'x' };
  message.self = { inside: [message] };
  return message;
}

function nested(depth: number): unknown[] {
  let value: unknown[] = [];
  for (let i = 0; i < depth; i++) value = [value];
  return value;
}
