//! What a labelled pod gets: a pure function from the pod as it is asked for to the patch, or to a refusal.
