/** What Oniguruma's \s matches: Unicode's White_Space. JavaScript's has U+FEFF besides, and lacks U+0085. */
const whiteSpace = '\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';

/** Characters beyond A–Z that equal a letter where case is ignored (Unicode's simple case folding). */
const foldings: Record<string, string> = { k: '\u212a', s: '\u017f' };

/**
 * The parts of Oniguruma's syntax that tokenizer files use and that mean the same in JavaScript, after `\s` and `(?i:…)`
 * are spelled out: alternatives, literals, classes of escapes and literals, look-ahead and greedy quantifiers.
 */
const syntax =
  /\(\?i:(?<ignoringCase>[\w'|]*)\)|(?<class>\[\^?(?:\\[srn]|\\p\{\w+\}|(?!&&)[^\\[\]])+\])|(?<plain>\\p\{\w+\}|\\[rnsS]|\(\?[!=:]|[)|?*+]|\{\d+(?:,\d*)?\}|[^\\[\](){}^$.|?*+])/gsuy;

/**
 * Translates the regular expression that cuts text into pieces from Oniguruma's dialect, in which tokenizer.json has it, to
 * JavaScript's. Returns undefined if it uses anything that this does not know to mean the same.
 */
export function translatePattern(source: string): RegExp | undefined {
  let translated = '';
  syntax.lastIndex = 0;
  while (syntax.lastIndex < source.length) {
    const groups = syntax.exec(source)?.groups;
    if (groups === undefined) return undefined;
    const { ignoringCase, class: set, plain } = groups;
    if (ignoringCase !== undefined) translated += `(?:${anyCase(ignoringCase)})`;
    else if (set !== undefined) translated += set.replaceAll('\\s', whiteSpace);
    else if (plain === '\\s') translated += `[${whiteSpace}]`;
    else if (plain === '\\S') translated += `[^${whiteSpace}]`;
    else translated += plain;
  }
  // A possessive quantifier, x++, is the one thing that JavaScript would refuse rather than misread.
  try {
    return new RegExp(translated, 'gu');
  } catch {
    return undefined;
  }
}

function anyCase(text: string): string {
  return text.replace(/[a-z]/gi, (letter) => {
    const lower = letter.toLowerCase();
    return `[${lower}${lower.toUpperCase()}${foldings[lower] ?? ''}]`;
  });
}
