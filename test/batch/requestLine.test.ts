import assert from 'node:assert/strict';
import { parseRequestLine } from '../../lib/batch/requestLine.js';
import { assertThrowsQwen2 } from '../support/errors.js';

const parse = (line: object | string, number = 7) =>
  parseRequestLine(typeof line === 'string' ? line : JSON.stringify(line), number);
const chat = (body: object) => ({ custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body });
const completion = (body: object) => ({ custom_id: 'a', method: 'POST', url: '/v1/completions', body });
const messages = [{ role: 'user', content: 'Hello' }];

describe('a line of a batch', () => {
  const plain: [line: object, request: object][] = [
    [
      { id: 'x', prompt: 'Hello', maxTokens: 3 },
      { id: 'x', prompt: 'Hello', maxTokens: 3 },
    ],
    [
      { id: 12, prompt: [1, 2], temperature: 0 },
      { id: '12', prompt: { tokens: [1, 2] }, temperature: 0 },
    ],
    [{ prompt: { tokens: [5] } }, { id: '7', prompt: { tokens: [5] } }],
    [
      { id: 'x', messages },
      { id: 'x', messages },
    ],
  ];
  for (const [line, request] of plain)
    it(`plainly: ${JSON.stringify(line)}`, () => assert.deepEqual(parse(line), { form: 'plain', request, model: '' }));

  it('as a chat of OpenAI’s: every option by its name, what says nothing left out', () => {
    const body = {
      model: 'qwen2',
      messages: [
        {
          role: 'system',
          content: [
            { type: 'text', text: 'Be ' },
            { type: 'text', text: 'brief' },
          ],
        },
        { role: 'assistant', content: null, tool_calls: [] },
        ...messages,
      ],
      ...{
        max_completion_tokens: 5,
        temperature: 0.5,
        top_p: 0.9,
        n: 2,
        stop: ['.'],
        seed: 1,
        logit_bias: { 3: -100 },
      },
      ...{ presence_penalty: 0.1, frequency_penalty: 0.2, logprobs: true, top_logprobs: 3, user: 'me', metadata: {} },
      ...{ top_k: 4, min_p: 0.1, repetition_penalty: 1.1, min_tokens: 1, ignore_eos: true, stop_token_ids: [1] },
      ...{
        stream: false,
        tools: [],
        tool_choice: 'none',
        response_format: { type: 'text' },
        max_tokens: null,
        priority: 2,
      },
    };
    assert.deepEqual(parse(chat(body)), {
      form: 'chat',
      model: 'qwen2',
      request: {
        id: 'a',
        messages: [
          { role: 'system', content: 'Be brief' },
          { role: 'assistant', content: '', tool_calls: [] },
          ...messages,
        ],
        ...{
          maxTokens: 5,
          temperature: 0.5,
          topP: 0.9,
          n: 2,
          stop: ['.'],
          seed: 1,
          logitBias: { 3: -100 },
          priority: 2,
        },
        ...{ presencePenalty: 0.1, frequencyPenalty: 0.2, logprobs: 3, topK: 4, minP: 0.1, repetitionPenalty: 1.1 },
        ...{ minTokens: 1, ignoreEos: true, stopTokenIds: [1] },
      },
    });
  });

  it('as a completion of OpenAI’s', () => {
    const body = { model: 'm', prompt: 'Once', max_tokens: 4, logprobs: 2, echo: false, best_of: 1, suffix: '' };
    assert.deepEqual(parse(completion(body)), {
      form: 'completion',
      model: 'm',
      request: { id: 'a', prompt: 'Once', maxTokens: 4, logprobs: 2 },
    });
    assert.deepEqual(parse(completion({ prompt: [3, 4] })).request, { id: 'a', prompt: { tokens: [3, 4] } });
  });

  it('without log-probabilities where a chat says no to them', () => {
    for (const logprobs of [false, null, undefined])
      assert.deepEqual(parse(chat({ messages, logprobs })).request, { id: 'a', messages });
  });

  const invalid: [what: string, line: object | string, says: string][] = [
    ['not JSON', '{"id":', 'not JSON'],
    ['a number', '5', 'it is 5; expected an object'],
    ['neither prompt nor messages', { id: 'x' }, 'prompt or messages, one of them'],
    ['both', { id: 'x', prompt: 'a', messages }, 'prompt or messages, one of them'],
    ['an id that is a list', { id: [1], prompt: 'a' }, 'id is [1]; expected a string or a number'],
    ['a prompt of words', { id: 'x', prompt: ['a'] }, 'prompt is ["a"]; expected a string, or an array of token ids'],
    ['a signal', { id: 'x', prompt: 'a', signal: {} }, "no option 'signal'"],
    ['no custom_id', { ...chat({ messages }), custom_id: undefined }, 'custom_id is missing'],
    ['another method', { ...chat({ messages }), method: 'GET' }, 'method is "GET"'],
    [
      'another url',
      { ...chat({ messages }), url: '/v1/embeddings' },
      'url is "/v1/embeddings"; expected one of /v1/chat',
    ],
    ['no body', { custom_id: 'a', url: '/v1/completions' }, 'body is missing'],
    ['a stream', chat({ messages, stream: true }), 'stream is true; expected false'],
    ['an unknown option', chat({ messages, reasoning: 'high' }), 'body has reasoning, "high", which is not supported'],
    ['tools', chat({ messages, tools: [{}] }), 'body has tools'],
    ['another format', chat({ messages, response_format: { type: 'json_object' } }), 'body has response_format'],
    ['no messages', chat({ messages: [] }), 'messages is []; expected an array of messages'],
    ['a message without a role', chat({ messages: [{ content: 'a' }] }), 'messages[0].role is missing'],
    [
      'a picture',
      chat({ messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }),
      'this model reads text only',
    ],
    [
      'a number of log-probabilities in a chat',
      chat({ messages, logprobs: 3 }),
      'logprobs is 3; expected true or false',
    ],
    ['an echo', completion({ prompt: 'a', echo: true }), 'body has echo, true'],
  ];
  for (const [what, line, says] of invalid)
    it(`that has ${what} is told to be wrong`, () => assertThrowsQwen2(() => parse(line), 'invalid_argument', says));
});
