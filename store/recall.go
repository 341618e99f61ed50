package store

import "context"

// Recaller is what a store has besides for which a read is a way to another machine and back, and which remembers records
// that passed through it. What it remembers may be out of date or gone: it decides nothing.
type Recaller interface {
	Store

	// Recall returns a record as it was when this store last saw it, without asking. The caller owns what it gets.
	Recall(kind, id string) (r Record, ok bool)

	// UpdateRecalled is Update, but may call edit first with the record as Recall has it, also one that is out of date.
	// What edit then wants written is written only if the record is still that very one. An error of edit, ErrKeep too,
	// counts only for a record that was read during the call. So edit must have no effect but by what it returns and by
	// variables that each call sets anew.
	UpdateRecalled(ctx context.Context, kind, id string, edit func(old Record) (Edit, error)) (Record, error)
}

// Recall returns what s remembers of a record, if it is a Recaller.
func Recall(s Store, kind, id string) (r Record, ok bool) {
	recaller, ok := s.(Recaller)
	if !ok {
		return Record{}, false
	}
	return recaller.Recall(kind, id)
}

// UpdateRecalled is UpdateRecalled of a Recaller, and Update of any other store.
func UpdateRecalled(ctx context.Context, s Store, kind, id string, edit func(old Record) (Edit, error)) (Record, error) {
	recaller, ok := s.(Recaller)
	if !ok {
		return s.Update(ctx, kind, id, edit)
	}
	return recaller.UpdateRecalled(ctx, kind, id, edit)
}
