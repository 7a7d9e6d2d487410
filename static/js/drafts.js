// What a person has begun to say of a comparison, the order of a ranking and all beside the verdict: kept in the
// browser until the answer has arrived, so that neither a reload nor a login in between loses it.

// of: the judgment that a draft changes, by its number; null where it is of a first answer.
const EMPTY = { reason: "", tags: [], ratings: {}, edit: null, order: [], of: null };

// What was emptied of an answer that stands says something.
function saysNothing({ reason, tags, ratings, edit, order, of }) {
  return !reason && !tags.length && !edit && !order.length && !Object.keys(ratings).length && !of;
}

export class Drafts {
  constructor(person) {
    this.prefix = `tastemaker-draft:${person}:`;
    this.memory = new Map(); // in case the browser keeps no storage for us
    this.standing = new Map(); // what stands of answers that are looked at again
  }

  read(assignment) {
    return { ...EMPTY, ...this.standing.get(assignment), ...this.kept(assignment) };
  }

  kept(assignment) {
    try {
      const kept = localStorage.getItem(this.prefix + assignment);
      return kept ? JSON.parse(kept) : this.memory.get(assignment);
    } catch {
      return this.memory.get(assignment);
    }
  }

  // An answer that stands is looked at again: with what was begun to change in it, but not in another one that stood
  // before it. Nothing is kept until something is changed.
  lookAt(assignment, answer) {
    if (this.kept(assignment)?.of !== answer.of) this.discard(assignment);
    this.standing.set(assignment, answer);
  }

  // An answer was taken back: it is the draft of the next one.
  takeUp(assignment, answer) {
    this.lookAt(assignment, answer);
    this.change(assignment, {});
  }

  isEmpty(assignment) {
    return saysNothing(this.read(assignment));
  }

  change(assignment, part) {
    const draft = { ...this.read(assignment), ...part };
    this.discard(assignment);
    if (saysNothing(draft)) return;
    try {
      localStorage.setItem(this.prefix + assignment, JSON.stringify(draft));
    } catch {
      this.memory.set(assignment, draft);
    }
  }

  forget(assignment) {
    this.standing.delete(assignment);
    this.discard(assignment);
  }

  discard(assignment) {
    this.memory.delete(assignment);
    try {
      localStorage.removeItem(this.prefix + assignment);
    } catch {
      // nothing was kept
    }
  }
}
