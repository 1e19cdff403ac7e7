// Function<R(Args...)>: a move-only callable (std::move_only_function is C++23).
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

template <class Signature>
class Function;

/// Owns any callable, also one that cannot be copied. Callables of up to 48 bytes that move without
/// throwing live inside the object; larger ones are allocated. Calling an empty one is a broken
/// precondition. Thread-safety: thread-compatible.
template <class R, class... Args>
class Function<R(Args...)> {
 public:
  Function() noexcept = default;
  Function(std::nullptr_t) noexcept {}  // NOLINT: implicit on purpose
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, Function> &&
           std::is_invocable_r_v<R, std::decay_t<F>&, Args...>)
      Function(F&& callable) {  // NOLINT: implicit on purpose
    using Callable = std::decay_t<F>;
    if constexpr (sizeof(Callable) <= kInlineBytes &&
                  alignof(Callable) <= alignof(std::max_align_t) &&
                  std::is_nothrow_move_constructible_v<Callable>) {
      ::new (static_cast<void*>(storage_)) Callable(std::forward<F>(callable));
      operations_ = &inline_operations<Callable>;
    } else {
      ::new (static_cast<void*>(storage_)) Callable*(new Callable(std::forward<F>(callable)));
      operations_ = &heap_operations<Callable>;
    }
  }
  Function(Function&& other) noexcept { take(other); }
  Function& operator=(Function&& other) noexcept {
    if (this != &other) {
      reset();
      take(other);
    }
    return *this;
  }
  Function(const Function&) = delete;
  Function& operator=(const Function&) = delete;
  ~Function() { reset(); }

  explicit operator bool() const noexcept { return operations_ != nullptr; }
  R operator()(Args... args) { return operations_->call(storage_, std::forward<Args>(args)...); }

 private:
  static constexpr std::size_t kInlineBytes = 48;
  struct Operations {
    R (*call)(void*, Args&&...);
    void (*relocate)(void* from, void* to) noexcept;  // moves, then destroys the source
    void (*destroy)(void*) noexcept;
  };
  template <class C>
  static C* as(void* storage) noexcept {
    return std::launder(static_cast<C*>(storage));
  }
  template <class C>
  static constexpr Operations inline_operations{
      [](void* s, Args&&... args) -> R {
        return static_cast<R>((*as<C>(s))(std::forward<Args>(args)...));
      },
      [](void* from, void* to) noexcept {
        ::new (to) C(std::move(*as<C>(from)));
        as<C>(from)->~C();
      },
      [](void* s) noexcept { as<C>(s)->~C(); }};
  template <class C>
  static constexpr Operations heap_operations{
      [](void* s, Args&&... args) -> R {
        return static_cast<R>((**as<C*>(s))(std::forward<Args>(args)...));
      },
      [](void* from, void* to) noexcept { ::new (to) C*(*as<C*>(from)); },
      [](void* s) noexcept { delete *as<C*>(s); }};

  void take(Function& other) noexcept {
    operations_ = std::exchange(other.operations_, nullptr);
    if (operations_ != nullptr) operations_->relocate(other.storage_, storage_);
  }
  void reset() noexcept {
    if (operations_ != nullptr) std::exchange(operations_, nullptr)->destroy(storage_);
  }

  const Operations* operations_ = nullptr;
  alignas(std::max_align_t) std::byte storage_[kInlineBytes];
};

}  // namespace ciuic::inline CIUIC_ABI
