// What the server knows, as the page asks for it.

export const BEYOND = 99;

async function ask(page, query) {
  const answer = await fetch(`./${page}?${new URLSearchParams(query)}`);
  if (!answer.ok) {
    const error = new Error(`${page}: ${answer.status} ${answer.statusText}`);
    throw Object.assign(error, { status: answer.status });
  }
  return answer;
}

export async function getJson(page, query = {}) {
  return (await ask(page, query)).json();
}

/**
 * Columns of steps with the extremes of each row: {names, width, exact, starts, low, high}.
 * `low` and `high` hold an array for each name, with an entry for each start: NaN if there is a NaN
 * among the steps, and -Infinity in `high` where the row has no value, see `isMissing`.
 */
export async function getColumns(run, what, first, last, most) {
  const buffer = await (await ask("columns", { run, what, first, last, most })).arrayBuffer();
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { names, columns } = header;
  let place = 8 + length;
  const starts = new Float64Array(buffer, place, columns);
  place += 8 * columns;
  const rows = names.map((_, i) => place + 4 * columns * i);
  const array = (start) => new Float32Array(buffer, start, columns);
  const low = rows.map(array);
  const high = rows.map((start) => array(start + 4 * columns * names.length));
  return { ...header, starts, low, high };
}

/** Whether a row has no value in a column, as a layer that was frozen at first. */
export const isMissing = (columns, row, column) => columns.high[row][column] === -Infinity;

/** The number of the column that holds a step, or of the last one before it; -1 for none. */
export function columnAt(starts, step) {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (starts[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/**
 * How two runs differ, in columns: of rows that both have, where both have steps. With `log`, log10 of
 * how many times `a` is `b`, else `a` minus `b`.
 */
export function difference(a, b, part, log) {
  const rowOf = new Map(b.names.map((name, i) => [name, i]));
  const reach = 2 * typicalGap(b); // beyond it a value of b says nothing of a step
  const partners = Array.from(a.starts, (start) => columnAt(b.starts, start));
  const shown = partners.flatMap((k, c) => (k >= 0 && a.starts[c] - b.starts[k] <= reach ? [c] : []));
  const compare = (x, y) => {
    if (!Number.isFinite(x) || !Number.isFinite(y)) return NaN;
    if (!log) return x - y;
    // Of 0 and another value the ratio is beyond all others.
    return x === y ? 0 : Math.max(-BEYOND, Math.min(BEYOND, Math.log10(x / y)));
  };
  const rows = a.names.map((name, i) => {
    const j = rowOf.get(name);
    return j === undefined ? undefined : Float32Array.from(shown, (c) => {
      if (isMissing(a, i, c) || isMissing(b, j, partners[c])) return -Infinity;
      return compare(a[part][i][c], b[part][j][partners[c]]);
    });
  });
  const starts = Float64Array.from(shown, (c) => a.starts[c]);
  return { names: a.names, width: a.width, starts, low: rows, high: rows };
}

/** The usual number of steps between columns, which is that between rare records. */
export function typicalGap({ starts, width }) {
  if (starts.length < 2) return width;
  return Math.max(width, (starts[starts.length - 1] - starts[0]) / (starts.length - 1));
}

/** The last step of a column; the last column may reach beyond the run's end. */
export const lastOf = ({ starts, width, end }, column) => (
  Math.min(starts[column] + width - 1, end ?? Infinity)
);

/** What columns hold of a layer at a step. */
export function valueAt(columns, layer, step) {
  const row = columns.names.indexOf(layer);
  const k = columnAt(columns.starts, step);
  if (k < 0 || row < 0 || !columns.low[row] || isMissing(columns, row, k)) return { layer };
  return { layer, first: columns.starts[k], last: lastOf(columns, k), low: columns.low[row][k], high: columns.high[row][k] };
}
