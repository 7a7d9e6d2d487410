// What a person has begun to say of a comparison, the order of a ranking and all beside the verdict: kept in the
// browser until the answer has arrived, so that neither a reload nor a login in between loses it.

const EMPTY = { reason: "", tags: [], ratings: {}, edit: null, order: [] };

function saysNothing({ reason, tags, ratings, edit, order }) {
  return !reason && !tags.length && !edit && !order.length && !Object.keys(ratings).length;
}

export class Drafts {
  constructor(person) {
    this.prefix = `tastemaker-draft:${person}:`;
    this.memory = new Map(); // in case the browser keeps no storage for us
  }

  read(assignment) {
    try {
      const kept = localStorage.getItem(this.prefix + assignment);
      return { ...EMPTY, ...(kept ? JSON.parse(kept) : this.memory.get(assignment)) };
    } catch {
      return { ...EMPTY, ...this.memory.get(assignment) };
    }
  }

  isEmpty(assignment) {
    return saysNothing(this.read(assignment));
  }

  change(assignment, part) {
    const draft = { ...this.read(assignment), ...part };
    this.forget(assignment);
    if (saysNothing(draft)) return;
    try {
      localStorage.setItem(this.prefix + assignment, JSON.stringify(draft));
    } catch {
      this.memory.set(assignment, draft);
    }
  }

  forget(assignment) {
    this.memory.delete(assignment);
    try {
      localStorage.removeItem(this.prefix + assignment);
    } catch {
      // nothing was kept
    }
  }
}
