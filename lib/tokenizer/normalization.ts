/** As many combining marks in a row as no script stacks: such a run is sorted before normalization. */
const longRun = /\p{M}{64}/gu;
const noMark = /\P{M}/gu;
/** Marks of combining class 1, the lowest that moves, and 230: one that moves changes places with one of the two. */
const overlay = '\u0334';
const acute = '\u0301';

/**
 * Unicode normalization form C of a text (UAX #15), each lone surrogate replaced by U+FFFD, as in its UTF-8.
 *
 * JavaScript's `normalize` puts a run of combining marks in canonical order by insertion: 80,000 marks take it 1.6 s,
 * and the time grows with the square. So a long run is sorted first, which leaves the result the same: a canonical
 * reordering is canonically equivalent.
 */
export function normalizeNfc(text: string): string {
  return sortLongRuns(replaceLoneSurrogates(text)).normalize('NFC');
}

/** One match over a whole run would need a stack that grows with it, so a run's beginning and its end are sought apart. */
function sortLongRuns(text: string): string {
  const parts: string[] = [];
  let sorted = 0;
  longRun.lastIndex = 0;
  for (let run = longRun.exec(text); run !== null; run = longRun.exec(text)) {
    noMark.lastIndex = longRun.lastIndex;
    const end = noMark.exec(text)?.index ?? text.length;
    parts.push(text.slice(sorted, run.index), sortMarks(text.slice(run.index, end)));
    sorted = end;
    longRun.lastIndex = end;
  }
  return sorted === 0 ? text : parts.join('') + text.slice(sorted);
}

/** The text with U+FFFD in the place of each lone surrogate, which has no UTF-8. */
export function replaceLoneSurrogates(text: string): string {
  return text.replace(/\p{Surrogate}/gu, '\ufffd');
}

/** Puts each stretch of marks that may change places in canonical order: by combining class, stably. */
function sortMarks(run: string): string {
  const marks = decompose(run);
  const rank = combiningRanks(new Set(marks));
  const sorted: string[] = [];
  let stretch: string[] = [];
  const closeStretch = () => {
    stretch.sort((a, b) => rank.get(a)! - rank.get(b)!);
    for (const mark of stretch) sorted.push(mark);
    stretch = [];
  };
  for (const mark of marks) {
    if (rank.get(mark) !== fixed) {
      stretch.push(mark);
      continue;
    }
    closeStretch();
    sorted.push(mark);
  }
  closeStretch();
  return sorted.join('');
}

/** The marks of a run, each decomposed alone, so that no reordering happens. */
function decompose(run: string): string[] {
  const parts = new Map<string, string[]>();
  const marks: string[] = [];
  for (const mark of run) {
    let own = parts.get(mark);
    if (own === undefined) {
      own = Array.from(mark.normalize('NFD'));
      parts.set(mark, own);
    }
    for (const part of own) marks.push(part);
  }
  return marks;
}

/** The rank of marks of class 0: nothing moves across them. */
const fixed = 0;

/** A number for each mark that orders them as their combining classes do; equal classes get equal numbers. */
function combiningRanks(marks: ReadonlySet<string>): Map<string, number> {
  const ranks = new Map<string, number>();
  const movable: string[] = [];
  for (const mark of marks) {
    if (isAbove(acute, mark) || isAbove(mark, overlay)) movable.push(mark);
    else ranks.set(mark, fixed);
  }
  movable.sort((a, b) => Number(isAbove(a, b)) - Number(isAbove(b, a)));
  let rank = fixed;
  let before: string | undefined;
  for (const mark of movable) {
    if (before === undefined || isAbove(mark, before)) rank++;
    ranks.set(mark, rank);
    before = mark;
  }
  return ranks;
}

/** Whether a's combining class is above b's and b's is not 0: exactly then normalization makes them change places. */
function isAbove(a: string, b: string): boolean {
  return (a + b).normalize('NFD') !== a + b;
}
