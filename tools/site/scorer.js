// The search's scores, Sphinx's own, but what explains comes before what only mentions.
var Scorer = {
  score: ([page, , , , score]) =>
    /^generated\/(bench|change|contrib|ex|results)/.test(page) ? score - 20 : score,
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
