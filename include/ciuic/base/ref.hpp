// Ref<T>: shared ownership of an object that counts its own references.
#pragma once

#include <utility>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Owns one reference of a `T` that has `add_reference()` and `drop_reference()`, both noexcept;
/// the last drop deletes the object. Unlike std::shared_ptr, code that holds a plain pointer can
/// keep the object alive too. Thread-safety: thread-compatible; the counting is the object's.
template <class T>
class Ref {
 public:
  Ref() noexcept = default;
  /// Takes over the reference that a new object is born with.
  static Ref adopt(T* object) noexcept {
    Ref ref;
    ref.object_ = object;
    return ref;
  }
  static Ref share(T* object) noexcept {
    if (object != nullptr) object->add_reference();
    return adopt(object);
  }
  Ref(const Ref& other) noexcept : Ref(share(other.object_)) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr) object_->drop_reference();
  }

  T* get() const noexcept { return object_; }
  T* operator->() const noexcept { return object_; }
  T& operator*() const noexcept { return *object_; }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

}  // namespace ciuic::inline CIUIC_ABI
